"""How far a sweep has come: questions answered out of how many, as a bar on a terminal and a line elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llava.eval.plan import Run, read_result
from llava.eval.store import ResponseStore

EVERY = 60.0  # seconds between lines where there is no terminal
# tasks whose size is known before they run: (subtasks, questions of each)
SIZES = {
    "videomme": (1, 2700),
    "mlvu_dev": (1, 2174),
    "mlvu_test": (1, 502),
    "aot_mlvu_test": (1, 502),
    "mvbench": (20, 200),
    "aot_mvbench": (20, 200),
    "egoschema": (1, 5031),
    "egoschema_subset": (1, 500),
    "aot_egoschema": (1, 500),
    "longvideobench_val_v": (1, 1337),
    "aot_longvideobench": (1, 1337),
    "aot_clips_open": (1, 1040),
    "aot_clips_choice": (1, 1040),
}


class SweepProgress:
    """One bar over all questions; use it in a `with`. Numbers are of questions, failed ones included."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("questions"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        self._bar = self._progress.add_task("", total=None)
        self._said = time.monotonic()
        self._shown = False

    def __enter__(self) -> "SweepProgress":
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


class QuestionCount:
    """Counts over runs, from their results where they are complete and from their stores where not."""

    def __init__(self, runs: list[Run]):
        self.runs, self._stores = runs, [ResponseStore(run.store) for run in runs]

    def count(self) -> tuple[int, int | None]:
        """(answered, in all); in all is None while the size of some task is unknown.

        A run that has not begun is taken to have as many questions as others of its task, or as the task is known for.
        """
        done, sizes = 0, {run.task.name: expected(run) for run in self.runs}
        for run, store in zip(self.runs, self._stores, strict=True):
            result = read_result(run.folder)
            if result is not None and not result["failed"]:
                answered = total = result["questions"]
            else:
                answered, total = store.answered(), store.expected()
            done += answered
            sizes[run.task.name] = total or sizes[run.task.name]
        known = [sizes[run.task.name] for run in self.runs]
        return done, None if None in known else sum(known)


def expected(run: Run) -> int | None:
    """The questions of a run by what its task is known for; None for a task that is not known."""
    if run.task.name not in SIZES:
        return None
    subtasks, each = SIZES[run.task.name]
    return subtasks * (each if run.sweep.limit is None else min(run.sweep.limit, each))
