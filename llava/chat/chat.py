"""`aot chat`: questions about a video in a terminal, their answers, and what each answer cost."""

import argparse
import json
from pathlib import Path

from aot_cli.parser import Parser, share
from llava.chat.answer import ChatError, as_json, cost, frames, stats
from llava.chat.options import add_model_options, command, model_path, open_session
from llava.chat.session import ChatSession
from llava.chat.terminal import Terminal
from llava.model.long_video import STREAM_ABOVE
from llava.video import check_path

# what is typed behind a slash: what it takes, and what the help says; `Chat` has a method of each name
COMMANDS = {
    "retention": ("R", "keep this share of the visual tokens from now on, such as 0.1 or 10%"),
    "max_tokens": ("N", "keep at most so many visual tokens as well, or with off, as many as the share says"),
    "video": ("PATH", "look at another video, or a folder of frames, and start afresh"),
    "image": ("PATH", "look at an image too, in front of the video, and start afresh; alone: forget the images"),
    "clear": ("", "forget the questions and answers so far"),
    "stats": ("", "what every answer so far has cost"),
    "help": ("", "this list"),
    "exit": ("", "leave (or Ctrl-D); exit and quit alone do as well"),
}
WORDS = {"exit": "/exit", "quit": "/exit", "/quit": "/exit", "help": "/help", "?": "/help"}  # what people type as well


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("video", nargs="?", metavar="VIDEO", help="video file, or folder of .png/.jpg frames")
    add("--video-file", metavar="VIDEO", help=argparse.SUPPRESS)
    add("--image-file", nargs="+", default=[], metavar="F", help="images to look at, with a video or without one")
    add("--question", metavar="TEXT", help="ask this once and leave")
    add("--json", action="store_true", help="with --question: print one JSON object, no more")
    add("--compare", action="store_true", help="answer every question at 100 %% as well")
    stream = f"frames from which it is compressed as read ({STREAM_ABOVE})"
    add("--stream-above", type=int, default=STREAM_ABOVE, metavar="N", help=stream)
    add_model_options(parser, cached=True)


@command
def execute(options, terminal: Terminal) -> int:
    """Checks everything that is cheap to check, then loads, then talks."""
    path = options.video or options.video_file
    check_options(options, path)
    session = open_session(options, terminal, quiet=options.json)
    session.stream_above = None if options.compare else options.stream_above
    chat = Chat(session, terminal, compare=options.compare)
    if path:
        chat.show_video(path, quiet=options.json)
    for path in options.image_file:
        chat.show_image(path, quiet=options.json)
    if options.question is None:
        return chat.run()
    if not options.json:
        chat.ask(options.question)
        return 0
    whole, answer = session.compare(options.question) if options.compare else (None, session.ask(options.question))
    result = as_json(answer, session, model_path(options))
    if whole:
        result["uncompressed"] = {"answer": whole.text, **cost(whole)}
    print(json.dumps(result, ensure_ascii=False))
    return 0


def check_options(options: argparse.Namespace, path: str | None) -> None:
    """Raises ChatError or VideoError for options that do not go together or make no sense."""
    if options.json and options.question is None:
        raise ChatError("--json prints one answer and needs --question.")
    if options.video and options.video_file:
        raise ChatError("The video is named twice; leave out --video-file.")
    if options.question is not None and not path and not options.image_file:
        raise ChatError("--question needs a video to look at; name one, as in: aot chat clip.mp4 --question TEXT.")
    if options.stream_above < 1:
        raise ChatError("--stream-above must be at least 1 frame.")
    if path:
        check_path(path)
    for path in options.image_file:
        if not Path(path).is_file():
            raise ChatError(f"There is no image at {path}; check the path.")


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
                line = self.terminal.read([f"/{name}" for name in COMMANDS])
                if line is None or not self.line(line.strip()):
                    return 0
            except ValueError as error:  # VideoError, AOTError and ChatError are all of this kind
                self.terminal.error(str(error))
                if not self.terminal.interactive:
                    return 1
            except KeyboardInterrupt:
                if not self.terminal.interactive:
                    return 130
                self.terminal.note("Ctrl-D or /exit leaves.")

    def line(self, line: str) -> bool:
        """Handles one line; False to leave."""
        if not line:
            return True
        line = WORDS.get(line.lower(), line)
        if not line.startswith("/"):
            self.ask(line)
            return True
        name, _, argument = line[1:].partition(" ")
        if name not in COMMANDS:
            raise ChatError(f"There is no command /{name}; /help lists them.")
        if name == "exit":
            return False
        takes, _ = COMMANDS[name]
        getattr(self, name)(*([argument.strip()] if takes else []))
        return True

    def ask(self, question: str) -> None:
        """Prints the answer as it comes, then its cost."""
        if self.compare:
            with self.session.uncompressed():
                self._answer(question, label="100 %: ", remember=False)
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
        terminal.facts(stats(answer))

    def retention(self, argument: str) -> None:
        """/retention R."""
        try:
            value = share(argument)
        except ValueError as error:
            raise ChatError(
                "/retention needs a share of the tokens, such as /retention 0.1 or /retention 10%."
            ) from error
        self.session.set_retention(value)
        self._note_budget()

    def max_tokens(self, argument: str) -> None:
        """/max_tokens N, or /max_tokens off."""
        try:
            most = None if argument == "off" else int(argument)
        except ValueError as error:
            raise ChatError(
                "/max_tokens needs a number of tokens, such as /max_tokens 500, or /max_tokens off."
            ) from error
        self.session.set_max_tokens(most)
        self._note_budget()

    def _note_budget(self) -> None:
        """Says what is kept from now on."""
        config, loaded = self.session.compression, self.session.loaded
        share = 1 if config is None or config.retention is None else config.retention
        kept = f"{100 * share:g} % of the visual tokens"
        if config is not None and config.max_tokens is not None:
            kept += f", but no more than {config.max_tokens},"
        again = "the video is read again for it" if loaded and loaded.streamed else "nothing is encoded again"
        self.terminal.note(f"From the next question on {kept} are kept; {again}.")

    def help(self) -> None:
        """/help."""
        self.terminal.write("\n".join(f"{f'/{name} {takes}':<15}{told}" for name, (takes, told) in COMMANDS.items()))

    def clear(self) -> None:
        """/clear."""
        count = len(self.session.turns)
        self.session.forget()
        kept = "; the video stays" if self.session.loaded else ""
        self.terminal.note(f"Forgot {count} question{'s' * (count != 1)}{kept}.")

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

    def image(self, path: str) -> None:
        """/image PATH, or /image alone."""
        if path:
            self.show_image(path)
            return
        self.terminal.note(f"Forgot {len(self.session.images)} images.")
        self.session.images.clear()
        self.session.forget()

    def show_image(self, path: str, *, quiet: bool = False) -> None:
        """Puts an image into the conversation."""
        picture = self.session.add_image(path)
        if not quiet:
            self.terminal.note(f"{path}: {picture.size[0]}x{picture.size[1]}, {picture.tokens} tokens")

    def show_video(self, path: str, *, quiet: bool = False) -> None:
        """Loads a video behind a progress bar."""
        with self.terminal.waiting("decode") as wait:
            loaded = self.session.set_video(path, progress=wait)
        if quiet:
            return
        video = loaded.video
        streamed = f", compressed while read since it has more than {self.session.stream_above}"
        self.terminal.note(
            f"{path}: {video.duration:.1f} s, {frames(len(video.times))} read by {video.decoder}, "
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
