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
    compress_ms: float | None
    published: dict[str, Any] | None
    relative: float | None = None
    relative_interval: Interval | None = None
    difference_interval: Interval | None = None

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
            # models, settings and tasks of both; where both name one, the first one's
            rows = {}
            for name in ("models", "settings", "tasks"):
                ours = {row.name: row for row in getattr(first, name)}
                rows[name] = (*ours.values(), *(row for row in getattr(sweep, name) if row.name not in ours))
            sweep, runs = replace(first, **rows), {**runs, **complete}
        found[sweep.name] = sweep, runs
    return [_table(sweep, model, runs) for sweep, runs in found.values() for model in sweep.models]


def _table(sweep: Sweep, model: Model, runs: dict[tuple[str, str, str], Path]) -> Table:
    answers: dict[str, dict[str, list[Record]]] = {setting.name: {} for setting in sweep.settings}  # then by task
    manifests = []
    for setting in sweep.settings:
        for task in sweep.tasks:
            folder = runs.get((model.name, setting.name, task.name))
            manifest = None if folder is None else read_result(folder)
            if manifest is not None:
                answers[setting.name][task.name] = read_records(folder / "questions.jsonl")
                manifests.append(manifest)
    warnings = _warnings(sweep, answers) + [text for manifest in manifests for text in _disagreements(manifest)]
    rows = {setting.name: _row(sweep, model, setting, answers[setting.name]) for setting in sweep.settings}
    # relative values, of settings that answered the same questions as the reference; they are drawn together
    reference = next((row for row in rows.values() if row.setting.aot is None), None)
    if reference is not None and reference.average is not None:
        base = _asked(answers[reference.setting.name])
        same = [row for row in rows.values() if row.average is not None and _asked(answers[row.setting.name]) == base]
        same.sort(key=lambda row: row is not reference)
        groups = [[score_groups(answers[row.setting.name][task.name]) for row in same] for task in sweep.tasks]
        compared = compare([[np.array([one[name] for one in of]) for name in of[0]] for of in groups])
        for row, (relative, difference) in zip(same, compared, strict=True):
            rows[row.setting.name] = replace(
                row,
                relative=100 * row.average / reference.average if reference.average else None,
                relative_interval=relative,
                difference_interval=difference,
            )
    return Table(sweep, model, sweep.tasks, tuple(rows.values()), tuple(manifests), tuple(warnings))


def _row(sweep: Sweep, model: Model, setting: Setting, answers: dict[str, list[Record]]) -> Row:
    """A setting by itself. answers: by task."""
    published = published_row(model, setting)
    cells = []
    for task in sweep.tasks:
        questions = answers.get(task.name, [])
        failed = sum(q.failure is not None for q in questions)
        printed = published.get(task.published) if published and task.published else None
        cells.append(Cell(task_score(questions), printed, len(questions), failed))
    asked = [q for task in sweep.tasks for q in answers.get(task.name, []) if q.failure is None]
    shares = [q.tokens["visual"] / q.tokens["visual_before"] for q in asked if q.tokens.get("visual_before")]
    times = [1e3 * q.seconds["compress"] for q in asked if "compress" in q.seconds]
    whole = all(cell.measured is not None for cell in cells)
    return Row(
        setting=setting,
        cells=tuple(cells),
        tokens=100 * statistics.fmean(shares) if shares else None,
        average=statistics.fmean(cell.measured for cell in cells) if whole else None,
        compress_ms=statistics.median(times) if times else None,
        published=published,
    )


def _asked(answers: dict[str, list[Record]]) -> set[tuple]:
    """What a setting was asked, by (task, subtask, document)."""
    return {(task, *question.key) for task, questions in answers.items() for question in questions}


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


def _warnings(sweep: Sweep, answers: dict[str, dict[str, list[Record]]]) -> list[str]:
    found = []
    for task in sweep.tasks:
        asked = {frozenset(q.key for q in of[task.name]) for of in answers.values() if task.name in of}
        if len(asked) > 1:
            found.append(f"{task.name}: not all settings were asked the same questions; those have no interval.")
    missing = [
        f"{setting} on {task.name}" for setting, of in answers.items() for task in sweep.tasks if task.name not in of
    ]
    if missing:
        shown = "; ".join(missing[:10]) + (f"; and {len(missing) - 10} more" if len(missing) > 10 else "")
        found.append(f"Not run yet: {shown}.")
    return found
