"""How many questions of a campaign are answered, out of how many."""

from llava.eval.campaign.plan import Run, run_status
from llava.eval.campaign.store import StoreReader

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


class Tally:
    """Counts over runs, from their results where they are complete and from their stores where not."""

    def __init__(self, runs: list[Run]):
        self.runs = runs
        self._readers = {run.folder: StoreReader(run.store) for run in runs}
        self._finished: dict = {}

    def count(self) -> tuple[int, int | None]:
        """(answered, in all); in all is None while the size of some task is unknown.

        A run that has not begun is taken to have as many questions as others of its task, or as the task is known for.
        """
        done, sizes = 0, {run.task.name: expected(run) for run in self.runs}
        for run in self.runs:
            answered, total = self._of(run)
            done += answered
            sizes[run.task.name] = total or sizes[run.task.name]
        known = [sizes[run.task.name] for run in self.runs]
        return done, None if None in known else sum(known)

    def _of(self, run: Run) -> tuple[int, int | None]:
        state = self._finished.get(run.folder) or run_status(run.folder)
        if state.complete and state.failed == 0:
            self._finished[run.folder] = state
            return state.questions, state.questions
        reader = self._readers[run.folder]
        return reader.answered(), reader.expected()


def expected(run: Run) -> int | None:
    """The questions of a run by what its task is known for; None for a task that is not known."""
    if run.task.name not in SIZES:
        return None
    subtasks, each = SIZES[run.task.name]
    return subtasks * (each if run.limit is None else min(run.limit, each))
