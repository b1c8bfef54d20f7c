"""The exam's runs in figures: what a folder holds, and each setting's scores, cost and distance to the others.

A run of the exam is a dict: what `result.json` holds, and under "questions" the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from aot_tiny.worlds import WORLDS, World
from llava.eval.exam.questions import FORMS, Item, make_exam
from llava.eval.exam.settings import ExamSetting, parse_setting
from llava.eval.plan import read_result
from llava.eval.records import Record, read_records
from llava.eval.statistics import Interval, cluster_difference
from llava.eval.sweep import SweepError

BOTH = ("open", "choice")  # the forms that count
FLOOR = "pool"  # plain down-sampling: what it gets right tells methods little
# of a header: what the runs that are compared have in common
IDENTITY = ("weights", "questions", "seed", "world", "tower_dtype", "quantization")
SLACK = 1.05  # of the asked share that still counts as equal: presets reach it in steps of an anchor a frame


def read_runs(folder: Path, **wanted) -> dict[str, dict]:
    """What `aot exam` left in a folder, by setting.

    wanted: fields of the header that must be so, None for those that it has not; other runs are passed over. SweepError
    when no full run is among the rest, or when they are of several checkpoints or exams or one cannot be read.
    """
    found = []
    for path in sorted(folder.glob("*/result.json")):
        run = read_result(path.parent)
        if run is None:
            raise SweepError(f"{path} is damaged; remove it and run aot exam again, which goes on from the replies.")
        header = run.get("header")  # runs of lmms-eval have none
        if header is not None and all(header.get(key) == value for key, value in wanted.items()):
            found.append({**run, "questions": read_records(path.with_name("questions.jsonl"))})
    runs = {run["header"]["setting"]: run for run in found}
    if "full" not in runs:
        raise SweepError(f"{folder} holds no such replies under 'full'; run aot exam first.")
    differ = [key for key in IDENTITY if len({run["header"].get(key) for run in found}) > 1]
    if differ:
        raise SweepError(f"{folder} mixes runs that differ in {', '.join(differ)}; keep one folder for each.")
    return runs


def holds_exam(folder: Path) -> bool:
    """Whether runs of the exam are in a folder; those of lmms-eval have no header."""
    return any("header" in (read_result(path.parent) or {}) for path in sorted(folder.glob("*/result.json")))


def world_of(runs: dict[str, dict]) -> World:
    """The world that the runs were asked about."""
    return WORLDS[runs["full"]["header"].get("world", "shapes")]


def items_of(runs: dict[str, dict]) -> tuple[Item, ...]:
    """The questions that the runs were asked."""
    header = runs["full"]["header"]
    return exam_items(header["questions"], header["seed"], world_of(runs))


@lru_cache
def exam_items(count: int, seed: int, world: World) -> tuple[Item, ...]:
    """The questions of an exam; making them takes a second."""
    return tuple(make_exam(count, seed=seed, world=world))


def scores(records: list[Record], *, form: str | None = None, family: str | None = None, **strata: str) -> np.ndarray:
    """Scores of the records of one form, family and strata; of open answers and letters together when form is None."""
    forms = (form,) if form else BOTH
    found = (r for r in records if r.task in forms and family in (None, r.group))
    return np.array([r.score for r in found if strata.items() <= r.strata.items()])


def mean_score(records: list[Record], **which) -> float | None:
    """Per cent right of what `scores` gives; None for no records."""
    found = scores(records, **which)
    return 100 * float(found.mean()) if len(found) else None


def hard_subset(runs: dict[str, dict], retention: float | None) -> set[tuple[str, str]] | None:
    """Keys of the records that all tokens get right and plain down-sampling to the same share gets wrong.

    Those are the samples on which VTC-Bench (arXiv 2510.07143) compares methods. None where it was not asked.
    """
    floor = None if retention is None else runs.get(f"{FLOOR}@{retention:g}")
    if floor is None:
        return None
    wrong = {r.key for r in floor["questions"] if r.task in BOTH and r.score < 1}
    return wrong & {r.key for r in runs["full"]["questions"] if r.task in BOTH and r.score == 1}


def hard_score(runs: dict[str, dict], setting: ExamSetting) -> tuple[float, int] | None:
    """Per cent right of the hard subset, and its size; None where there is none."""
    hard = hard_subset(runs, setting.retention)
    if not hard:
        return None
    right = [r.score for r in runs[setting.name]["questions"] if r.key in hard]
    return 100 * float(np.mean(right)), len(hard)


def mean_iou(records: list[Record]) -> float | None:
    """Mean IoU of the intervals that were said, in per cent; None where none was asked for."""
    found = [r.details["iou"] for r in records if "iou" in r.details]
    return 100 * float(np.mean(found)) if found else None


def strata_of(records: list[Record]) -> dict[str, list[str]]:
    """The strata of records, and what each can be."""
    found: dict[str, set[str]] = {}
    for record in records:
        for stratum, value in record.strata.items():
            found.setdefault(stratum, set()).add(value)
    return {stratum: sorted(values) for stratum, values in found.items()}


def interval(records: list[Record], others: list[Record]) -> Interval:
    """95 % interval of how far records are ahead of others, in points: open answers and letters, drawn by clip.

    Raises SweepError for replies to other questions.
    """
    ours, theirs = ([r for r in them if r.task in BOTH] for them in (records, others))
    asked = [[(r.source, r.task, r.prompt) for r in them] for them in (ours, theirs)]
    if asked[0] != asked[1]:
        raise SweepError("Two runs were asked other questions, as by another release; run aot exam into a new folder.")
    return cluster_difference(scores(ours), scores(theirs), [r.source for r in ours])


@dataclass(frozen=True)
class Ranked:
    """One setting in figures, in per cent and points.

    overall: open answers and letters. relative: of all tokens'. to_full, to_first: 95 % intervals of the difference
    to all tokens and to the first at this retention (None for the first itself). forms, families: means, None
    where nothing was asked; strata: by name and value. hard: of the hard subset and its size, or None. iou: mean of
    the intervals that were said, or None. kept: share of the visual tokens that were kept, None when the setting does
    not say. cost: mean counts of tokens and `compress_clip.own_cost`, or None.
    """

    setting: ExamSetting
    overall: float
    relative: float
    to_full: Interval
    to_first: Interval | None
    forms: dict[str, float | None]
    families: dict[str, float | None]
    strata: dict[tuple[str, str], float | None]
    hard: tuple[float, int] | None
    iou: float | None
    kept: float | None
    cost: dict | None

    @property
    def equal(self) -> bool:
        """Whether it reduces before the language model to the asked share, so that it can be compared."""
        return within(self.setting, self.kept)


def ranking(runs: dict[str, dict], names: Sequence[str]) -> list[Ranked]:
    """Ranking of these settings, by retention from high to low and then from best to worst.

    The first of a retention is the best of those that reduce to this share before the language model.
    """
    parsed = [parse_setting(name) for name in names]
    rows = []
    for retention in sorted({s.retention for s in parsed}, reverse=True):
        here = [s for s in parsed if s.retention == retention]
        here.sort(key=lambda s: -mean_score(runs[s.name]["questions"]))
        equal = [s for s in here if within(s, kept_share(runs[s.name]))]
        rows += [ranked(runs, s, equal[0].name if equal else None) for s in here]
    return rows


def kept_share(run: dict) -> float | None:
    """Per cent of the visual tokens that were kept; None where nothing was reduced."""
    cost = run.get("cost")
    return 100 * cost["tokens"] / cost["before"] if cost else None


def within(setting: ExamSetting, kept: float | None) -> bool:
    """Whether per cent kept before the language model are no more than the setting asked for."""
    return not setting.inside and kept is not None and kept <= 100 * setting.retention * SLACK


def ranked(runs: dict[str, dict], setting: ExamSetting, first: str | None = None) -> Ranked:
    """One setting against runs["full"] and, unless it is the first itself, against the first."""
    run, full = runs[setting.name], runs["full"]
    records = run["questions"]
    points, whole = mean_score(records), mean_score(full["questions"])
    return Ranked(
        setting=setting,
        overall=points,
        relative=100 * points / whole if whole else float("nan"),
        to_full=interval(records, full["questions"]),
        to_first=None if first in (None, setting.name) else interval(records, runs[first]["questions"]),
        forms={form: mean_score(records, form=form) for form in FORMS},
        families={family: mean_score(records, family=family) for family in world_of(runs).questions.FAMILIES},
        strata={
            (stratum, value): mean_score(records, **{stratum: value})
            for stratum, values in strata_of(records).items()
            for value in values
        },
        hard=hard_score(runs, setting),
        iou=mean_iou(records),
        kept=kept_share(run),
        cost=run.get("cost"),
    )
