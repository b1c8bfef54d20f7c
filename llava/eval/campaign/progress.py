"""How far a campaign has come: a bar with the time left on a terminal, a line now and then elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 60.0  # seconds between lines where there is no terminal


class CampaignProgress:
    """One bar over all questions; use it in a `with`. Numbers are of questions, failed ones included."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("questions"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        self._bar = self._progress.add_task("", total=None)
        self._said = time.monotonic()
        self._shown = False

    def __enter__(self) -> "CampaignProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, what: str, done: int, total: int | None) -> None:
        """The questions answered so far; total None while nobody knows it."""
        if not self._shown:  # what an earlier start has done says nothing about the speed of this one
            self._shown = True
            self._progress.reset(self._bar, total=total, completed=done)
        self._progress.update(self._bar, description=what, completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            self.console.print(f"{what}: {done} of {total or '?'} questions{self._left()}", highlight=False)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _left(self) -> str:
        seconds = self._progress.tasks[0].time_remaining
        return "" if seconds is None else f", about {max(1, round(seconds / 60))} min left"
