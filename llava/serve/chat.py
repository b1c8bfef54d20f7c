"""The chat in a terminal: commands, questions, answers, and what each answer cost."""

from llava.serve.report import stats_line
from llava.serve.session import ChatError, ChatSession
from llava.serve.terminal import Terminal

HELP = """\
/retention R   keep this share of the visual tokens from now on, 0 < R <= 1; only a long video is read again
/video PATH    look at another video, or a folder of frames, and start afresh
/clear         forget the questions and answers so far
/stats         what every answer so far has cost
/help          this list
/exit          leave (or end the input)"""
COMMANDS = ["/retention", "/video", "/clear", "/stats", "/help", "/exit"]


class Chat:
    """Carries lines between a terminal and a session. compare: answer each question at 100 % as well."""

    def __init__(self, session: ChatSession, terminal: Terminal, *, compare: bool = False):
        self.session, self.terminal, self.compare = session, terminal, compare

    def run(self) -> int:
        """Until /exit or the end of the input; 1 when a line failed and nobody was there to put it right."""
        if self.terminal.interactive:
            self.terminal.note("Ask about the video; /help lists the commands.")
        while True:
            try:
                line = self.terminal.read()
                if line is None or not self.line(line.strip()):
                    return 0
            except ValueError as error:  # VideoError, AOTError and ChatError are all of this kind
                self.terminal.error(str(error))
                if not self.terminal.interactive:
                    return 1
            except KeyboardInterrupt:
                if not self.terminal.interactive:
                    return 130

    def line(self, line: str) -> bool:
        """Handles one line; False to leave."""
        if not line:
            return True
        if not line.startswith("/"):
            self.ask(line)
            return True
        command, _, argument = line.partition(" ")
        argument = argument.strip()
        if command in ("/exit", "/quit"):
            return False
        if command == "/retention":
            self.retention(argument)
        elif command == "/video":
            self.video(argument)
        elif command == "/clear":
            self.session.forget()
        elif command == "/stats":
            self.stats()
        elif command == "/help":
            self.terminal.write(HELP)
        else:
            raise ChatError(f"There is no command {command}; /help lists them.")
        return True

    def ask(self, question: str) -> None:
        """Prints the answer as it comes, then its cost."""
        if self.compare:
            aot, self.session.aot = self.session.aot, None
            try:
                self._answer(question, label="100 %: ", remember=False)
            finally:
                self.session.aot = aot
        self._answer(question, label="reduced: " if self.compare else "")

    def _answer(self, question: str, *, label: str = "", remember: bool = True) -> None:
        terminal = self.terminal
        with terminal.waiting("thinking") as wait:

            def show(text: str) -> None:
                wait.stop()
                terminal.write(text, end="")

            terminal.write(label, end="")
            answer = self.session.ask(question, on_text=show, remember=remember)
        terminal.write(" (stopped)" if answer.stopped else "")
        terminal.write(stats_line(answer), style="dim")

    def retention(self, argument: str) -> None:
        """/retention R."""
        try:
            value = float(argument)
        except ValueError as error:
            raise ChatError("/retention needs a number above 0 and at most 1, such as /retention 0.1.") from error
        self.session.set_retention(value)

    def video(self, path: str) -> None:
        """/video PATH."""
        if not path:
            raise ChatError("/video needs the path of a video file or a folder of frames.")
        before = self.session.loaded
        try:
            self.show_video(path)
        except ValueError as error:
            if before is None or not self.terminal.interactive:
                raise
            raise ChatError(f"{error} The chat stays with {before.path}.") from error

    def show_video(self, path: str, *, quiet: bool = False) -> None:
        """Loads a video behind a progress bar."""
        with self.terminal.waiting("decode") as wait:
            loaded = self.session.set_video(path, progress=wait)
        if quiet:
            return
        video = loaded.video
        streamed = f", compressed while read since it has more than {self.session.stream_above}"
        self.terminal.note(
            f"{path}: {video.duration:.1f} s, {len(video.times)} frames read by {video.decoder}, "
            f"{loaded.before.visual} visual tokens{streamed * loaded.streamed}"
        )

    def stats(self) -> None:
        """Every answer so far as a row."""
        rows = [
            [
                answer.question[:40],
                f"{answer.before.visual} → {answer.after.visual}",
                f"{100 * answer.retention:.3g} %",
                f"{answer.timings['compress']:.1f}",
                f"{answer.timings['first_token']:.0f}",
                f"{answer.timings['total']:.0f}",
            ]
            for answer in self.session.answers
        ]
        if not rows:
            raise ChatError("There are no answers yet; ask something first.")
        columns = ["question", "tokens", "retention", "compression ms", "first token ms", "answer ms"]
        self.terminal.table(columns, rows)
