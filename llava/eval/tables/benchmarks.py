"""From the questions of all runs to the numbers of a table; nothing here knows how it will look."""

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llava.eval.plan import read_result
from llava.eval.records import Record, read_records, score_groups, task_score
from llava.eval.statistics import Interval, compare
from llava.eval.sweep import Model, Setting, Sweep, SweepError, Task, published_row, sweep_from

EARLIER = "campaign.json"  # what it was called, its key "campaign" too
_ROUNDING = 0.06  # points; some of lmms-eval's scores are rounded


@dataclass(frozen=True)
class Cell:
    """One setting on one task. measured and published in percent; failed questions count as wrong."""

    measured: float | None
    published: float | None
    questions: int
    failed: int

    @property
    def difference(self) -> float | None:
        """Measured minus published, in points."""
        return None if self.measured is None or self.published is None else self.measured - self.published


@dataclass(frozen=True)
class Row:
    """One setting. tokens: share of the visual tokens that stayed, in percent, as recorded question by question.

    relative: the average as a percentage of our own uncompressed run's; its interval, and that of the difference
    in points, by paired bootstrap. compress_ms: median of the questions' compression. None where it is not known.
    """

    setting: Setting
    cells: tuple[Cell, ...]
    tokens: float | None
    average: float | None
    relative: float | None
    relative_interval: Interval | None
    difference_interval: Interval | None
    compress_ms: float | None
    published: dict[str, Any] | None

    @property
    def failed(self) -> int:
        return sum(cell.failed for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """A model under all settings. manifests: of the runs. warnings: what a reader must know."""

    sweep: Sweep
    model: Model
    tasks: tuple[Task, ...]
    rows: tuple[Row, ...]
    manifests: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]


def load_tables(folders: list[Path]) -> list[Table]:
    """The tables of sweeps' folders; sweeps of one name in several folders are put together.

    Raises SweepError for a folder that holds no sweep.
    """
    found: dict[str, tuple[Sweep, dict[tuple[str, str, str], Path]]] = {}
    for folder in folders:
        path = next((p for p in (folder / "sweep.json", folder / EARLIER) if p.is_file()), None)
        if path is None:
            raise SweepError(f"There is no sweep in {folder}; give the folder that `aot eval` named at its end.")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            sweep = sweep_from(data.get("sweep") or data["campaign"])
            runs = {(row["model"], row["setting"], row["task"]): folder / row["folder"] for row in data["runs"]}
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise SweepError(f"{path} is damaged; run `aot eval` with this sweep again.") from error
        if sweep.name in found:
            first, known = found[sweep.name]
            complete = {key: run for key, run in known.items() if read_result(run) is not None}
            sweep, runs = _together(first, sweep), {**runs, **complete}
        found[sweep.name] = sweep, runs
    return [_table(sweep, model, runs) for sweep, runs in found.values() for model in sweep.models]


def _together(one: Sweep, other: Sweep) -> Sweep:
    """The models, settings and tasks of both; where both name one, the first one's."""

    def union(name: str) -> tuple:
        rows = {row.name: row for row in (*getattr(other, name), *getattr(one, name))}
        order = dict.fromkeys(row.name for row in (*getattr(one, name), *getattr(other, name)))
        return tuple(rows[key] for key in order)

    return replace(one, models=union("models"), settings=union("settings"), tasks=union("tasks"))


def _table(sweep: Sweep, model: Model, runs: dict[tuple[str, str, str], Path]) -> Table:
    answers: dict[tuple[str, str], list[Record]] = {}
    manifests = []
    for setting in sweep.settings:
        for task in sweep.tasks:
            folder = runs.get((model.name, setting.name, task.name))
            manifest = None if folder is None else read_result(folder)
            if manifest is not None:
                answers[setting.name, task.name] = read_records(folder / "questions.jsonl")
                manifests.append(manifest)
    warnings = _warnings(sweep, answers) + [text for manifest in manifests for text in _disagreements(manifest)]
    reference = next((s.name for s in sweep.settings if s.aot is None), None)
    intervals = _compare(sweep, reference, answers)
    rows = tuple(_row(sweep, model, setting, answers, intervals) for setting in sweep.settings)
    return Table(sweep, model, sweep.tasks, rows, tuple(manifests), tuple(warnings))


def _row(sweep: Sweep, model: Model, setting: Setting, answers: dict, intervals: dict) -> Row:
    published = published_row(model, setting)
    cells = []
    for task in sweep.tasks:
        questions = answers.get((setting.name, task.name), [])
        failed = sum(q.failure is not None for q in questions)
        printed = published.get(task.published) if published and task.published else None
        cells.append(Cell(task_score(questions), printed, len(questions), failed))
    asked = [q for task in sweep.tasks for q in answers.get((setting.name, task.name), []) if q.failure is None]
    shares = [q.tokens["visual"] / q.tokens["visual_before"] for q in asked if q.tokens.get("visual_before")]
    times = [1e3 * q.seconds["compress"] for q in asked if "compress" in q.seconds]
    whole = all(cell.measured is not None for cell in cells)
    average, relative, relative_interval, difference_interval = intervals.get(setting.name, (None,) * 4)
    return Row(
        setting=setting,
        cells=tuple(cells),
        tokens=100 * statistics.fmean(shares) if shares else None,
        average=statistics.fmean(cell.measured for cell in cells) if whole and average is None else average,
        relative=relative,
        relative_interval=relative_interval,
        difference_interval=difference_interval,
        compress_ms=statistics.median(times) if times else None,
        published=published,
    )


def _compare(sweep: Sweep, reference: str | None, answers: dict) -> dict:
    """(average, relative, its interval, interval of the difference) of every setting that answered every task."""
    names = [s.name for s in sweep.settings]
    whole = [
        name
        for name in names
        if all(task_score(answers.get((name, task.name), [])) is not None for task in sweep.tasks)
    ]
    if reference not in whole:
        return {}
    found = {}
    base = answers_of(sweep, reference, answers)
    # settings that answered the same questions are drawn together; others are left without an interval
    same = [reference] + [
        name for name in whole if name != reference and answers_of(sweep, name, answers).keys() == base.keys()
    ]
    tasks = []
    for task in sweep.tasks:
        rows = [score_groups(answers[name, task.name]) for name in same]
        tasks.append([np.array([row[group] for row in rows]) for group in rows[0]])
    compared = compare(tasks)
    for i, name in enumerate(same):
        ours, theirs = float(compared.average[i]), float(compared.average[0])
        relative = 100 * ours / theirs if theirs else None
        found[name] = (ours, relative, compared.relative[i], compared.difference[i])
    return found


def _disagreements(manifest: dict[str, Any]) -> list[str]:
    """Where lmms-eval's own score of a run without failures is another than ours."""
    if manifest["failed"]:
        return []
    found = []
    for task, ours in manifest["scores"].items():
        theirs = manifest["harness_scores"].get(task, {})
        same = any(abs(value * scale - ours) < _ROUNDING for value in theirs.values() for scale in (1, 100))
        if theirs and not same:
            printed = ", ".join(f"{name} {value:g}" for name, value in theirs.items())
            found.append(f"{manifest['setting']} on {task}: ours is {ours:.2f}, lmms-eval's own {printed}.")
    return found


def answers_of(sweep: Sweep, setting: str, answers: dict) -> dict[tuple[str, str, str], Record]:
    """A setting's questions on all tasks by (task, subtask, document)."""
    return {(t.name, *q.key): q for t in sweep.tasks for q in answers.get((setting, t.name), [])}


def _warnings(sweep: Sweep, answers: dict) -> list[str]:
    found = []
    for task in sweep.tasks:
        sets = {name: {q.key for q in answers[name, task.name]} for name, t in answers if t == task.name}
        if len({frozenset(keys) for keys in sets.values()}) > 1:
            found.append(f"{task.name}: not all settings were asked the same questions; those have no interval.")
    missing = [
        f"{setting.name} on {task.name}"
        for setting in sweep.settings
        for task in sweep.tasks
        if (setting.name, task.name) not in answers
    ]
    if missing:
        shown = "; ".join(missing[:10]) + (f"; and {len(missing) - 10} more" if len(missing) > 10 else "")
        found.append(f"Not run yet: {shown}.")
    return found
