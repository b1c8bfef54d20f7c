"""`aot watch`: questions about a source that goes on, such as a camera or a folder that grows, while it is seen."""

import argparse
import os
import re
import select
import sys
import time
from datetime import timedelta

from aot_cli.parser import Parser
from llava.chat.answer import ChatError, stats
from llava.chat.live import LiveSession
from llava.chat.options import add_model_options, command, open_session
from llava.chat.terminal import Terminal
from llava.decoders.base import is_camera
from llava.live_source import LiveSource
from llava.video import check_path

TICK = 0.2  # seconds that a frame is waited for, before questions are looked for again
TELL = 10.0  # seconds between two lines about dropped frames


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help="film, folder, - (standard input), rtsp://… or /dev/videoN")
    add("--question", metavar="TEXT", help="ask this at the end of the source, not what is typed")
    add("--every", type=float, metavar="S", help="with --question: ask it every S seconds as well")
    add("--size", metavar="WxH", help="of raw RGB on standard input (default: MJPEG)")
    add_model_options(parser)


@command
def execute(options: argparse.Namespace, terminal: Terminal) -> int:
    """Checks everything that is cheap to check, loads the model, then watches."""
    size = check_options(options)
    session = open_session(options, terminal)
    live = LiveSession(session)
    with LiveSource(options.source, fps=options.fps or session.sampling.fps or 1.0, size=size) as source:
        watch = Watch(live, source, terminal)
        if options.question:
            return watch.repeat(options.question, options.every)
        if terminal.interactive:
            terminal.note("Ask at any time; /exit leaves.")
        return watch.converse()


def check_options(options: argparse.Namespace) -> tuple[int, int] | None:
    """--size as numbers. Raises ChatError for options that do not go together or make no sense, VideoError for a source
    that cannot be read.
    """
    if options.source == "-" and not options.question:
        raise ChatError("Standard input brings the frames, so nothing can be typed; give --question TEXT.")
    if options.every is not None and not (options.question and options.every > 0):
        raise ChatError("--every takes seconds above 0 and needs --question.")
    if options.source != "-" and not is_camera(options.source):
        check_path(options.source)
    if options.size is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", options.size)
    if found is None or options.source != "-":
        raise ChatError("--size is WIDTHxHEIGHT, such as 640x480, of raw pictures on standard input.")
    return int(found[1]), int(found[2])


class Watch:
    """Carries frames from a source to a live session, and questions to it; all in one thread, in turn."""

    def __init__(self, live: LiveSession, source: LiveSource, terminal: Terminal):
        self.live, self.source, self.terminal = live, source, terminal
        self._told, self._dropped = time.monotonic(), 0

    def repeat(self, question: str, every: float | None) -> int:
        """Asks one question again and again, and once at the end of the source; 1 when no frame came at all."""
        due = time.monotonic() + every if every else None
        while not self.source.over:
            self.see()
            if due and time.monotonic() >= due and self.live.frames:
                self.ask(question)
                due = time.monotonic() + every
        self.see()
        self.ask(question)
        return 0 if self.live.frames else 1

    def converse(self) -> int:
        """Answers what is typed, until /exit or the end of the input."""
        unread, questions, ended = b"", [], False
        while True:
            self.see()
            if not ended and select.select([sys.stdin], [], [], 0)[0]:
                data = os.read(sys.stdin.fileno(), 2**16)
                ended = not data
                *lines, unread = (unread + data + b"\n" * ended).split(b"\n")
                questions += [line.decode(errors="replace").strip() for line in lines if line.strip()]
            # a question waits for the first frame
            while questions and (self.live.frames or self.source.over or questions[0] == "/exit"):
                if (question := questions.pop(0)) == "/exit":
                    return 0
                self.ask(question)
            if ended and not questions:
                return 0

    def see(self) -> None:
        """Pushes the frames that wait, and tells what was to be said."""
        if taken := self.source.take(TICK):
            times, frames = zip(*taken, strict=True)
            self.live.push(frames, times)
        for note in self.source.notes():
            self.terminal.note(note)
        new = self.source.dropped - self._dropped
        if new and (self.source.over or time.monotonic() >= self._told + TELL):
            self._told, self._dropped = time.monotonic(), self.source.dropped
            self.terminal.note(f"{new} frames were dropped, since they came faster than they are seen; lower --fps.")

    def ask(self, question: str) -> None:
        """Prints the time that the answer refers to, the answer as it comes, and its cost."""
        try:
            seen = self.live.look()
            self.terminal.write(f"[{timedelta(seconds=round(seen.video.duration))}] ", end="")
            answer = self.live.ask(question, on_text=lambda text: self.terminal.write(text, end=""))
        except ValueError as error:  # as in the chat
            if not self.terminal.interactive:
                raise
            self.terminal.error(str(error))
            return
        self.terminal.write(" (stopped)" if answer.stopped else "")
        self.terminal.facts(stats(answer))
