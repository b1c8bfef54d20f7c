"""How many questions are answered, as a bar on a terminal and a line a minute elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 60.0  # seconds between lines where there is no terminal


class QuestionProgress:
    """One bar; use it in a `with`. Numbers are of questions, failed ones included."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("questions"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        self._bar = self._progress.add_task("", total=None)
        self._said = time.monotonic()
        self._what = ""

    def __enter__(self) -> "QuestionProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, what: str, done: int, total: int | None) -> None:
        """The questions of something answered so far; total None while nobody knows it."""
        if what != self._what:  # what an earlier start has done says nothing about the speed of this one
            self._what = what
            self._progress.reset(self._bar, total=total, completed=done)
        self._progress.update(self._bar, description=what, completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() - self._said >= EVERY:
            self._said, seconds = time.monotonic(), self._progress.tasks[0].time_remaining
            left = "" if seconds is None else f", about {max(1, round(seconds / 60))} min left"
            self.console.print(f"{what}: {done} of {total or '?'} questions{left}", highlight=False)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
