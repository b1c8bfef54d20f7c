"""How a setting stands: its scores, its cost, and its distance to all tokens and to the best of its retention.

A run of the exam is a dict: what `result.json` holds, and under "questions" the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aot_tiny.shapes.questions import FAMILIES
from llava.eval.exam.settings import Setting, parse_setting
from llava.eval.records import Record
from llava.eval.stats import cluster_difference

LABELS = {"full": "all tokens", "blank": "all tokens, video blanked"}
BOTH = ("open", "choice")  # the forms that count
FORMS = ("open", "choice", "likelihood", "caption")
SLACK = 1.05  # of the asked share that still counts as equal: presets reach it in steps of an anchor a frame


def scores(records: list[Record], *, form: str | None = None, family: str | None = None) -> np.ndarray:
    """Scores of the records of one form and family; of open answers and letters together when form is None."""
    forms = (form,) if form else BOTH
    return np.array([r.score for r in records if r.task in forms and family in (None, r.group)])


def interval(records: list[Record], others: list[Record]) -> tuple[float, float]:
    """95 % interval of how far records are ahead of others, in points: open answers and letters, drawn by clip."""
    ours, theirs = ([r for r in them if r.task in BOTH] for them in (records, others))
    asked = [[(r.source, r.task, r.prompt) for r in them] for them in (ours, theirs)]
    assert asked[0] == asked[1]
    found = cluster_difference(scores(ours), scores(theirs), [r.source for r in ours])
    return found.low, found.high


def label(setting: str) -> str:
    """A setting as the tables print it."""
    if setting in LABELS:
        return LABELS[setting]
    head, _, fields = setting.partition(",")
    method, _, retention = head.partition("@")
    return f"{method} {100 * float(retention):g} %" + (f", {fields}" if fields else "")


def percent(values: np.ndarray) -> str:
    """Mean of scores in per cent; a dash for none."""
    return f"{100 * values.mean():.1f}" if len(values) else "–"


def between(low: float, high: float) -> str:
    """An interval in points."""
    return f"{low:+.1f} … {high:+.1f}"


@dataclass(frozen=True)
class Standing:
    """One setting in figures, in per cent and points.

    overall: open answers and letters. relative: of all tokens'. to_full, to_first: 95 % intervals of the difference
    to all tokens and to the first at this retention (None for the first itself). forms, families: means, None
    where nothing was asked. kept: share of the visual tokens that were kept, None when the setting does not say.
    cost: means of `reduction.Counts` and `reduction.own_cost`, or None.
    """

    setting: Setting
    overall: float
    relative: float
    to_full: tuple[float, float]
    to_first: tuple[float, float] | None
    forms: dict[str, float | None]
    families: dict[str, float | None]
    kept: float | None
    cost: dict | None

    @property
    def inside(self) -> bool:
        """Whether it drops tokens inside the language model, so that its share is a layer average."""
        return self.setting.inside

    @property
    def equal(self) -> bool:
        """Whether it reduces before the language model to the asked share, so that it can be compared."""
        return within(self.setting, self.kept)


def overall(run: dict) -> float:
    """Per cent right of open answers and letters."""
    return 100 * scores(run["questions"]).mean()


def standings(runs: dict[str, dict], names: Sequence[str]) -> list[Standing]:
    """Standings of these settings, by retention from high to low and then from best to worst.

    The first of a retention is the best of those that reduce to this share before the language model.
    """
    parsed = [parse_setting(name) for name in names]
    rows = []
    for retention in sorted({s.retention for s in parsed}, reverse=True):
        here = sorted((s for s in parsed if s.retention == retention), key=lambda s: -overall(runs[s.name]))
        equal = [s for s in here if within(s, kept_share(runs[s.name]))]
        rows += [standing(runs, s, equal[0].name if equal else None) for s in here]
    return rows


def kept_share(run: dict) -> float | None:
    """Per cent of the visual tokens that were kept; None where nothing was reduced."""
    cost = run.get("cost")
    return 100 * cost["tokens"] / cost["before"] if cost else None


def within(setting: Setting, kept: float | None) -> bool:
    """Whether per cent kept before the language model are no more than the setting asked for."""
    return not setting.inside and kept is not None and kept <= 100 * setting.retention * SLACK


def standing(runs: dict[str, dict], setting: Setting, first: str | None) -> Standing:
    """Standing of one setting against runs["full"] and, unless it is the first itself, against the first."""
    run, full = runs[setting.name], runs["full"]
    records = run["questions"]
    points, whole = overall(run), overall(full)
    return Standing(
        setting=setting,
        overall=points,
        relative=100 * points / whole if whole else float("nan"),
        to_full=interval(records, full["questions"]),
        to_first=None if first in (None, setting.name) else interval(records, runs[first]["questions"]),
        forms={form: _mean(records, form=form) for form in FORMS},
        families={family: _mean(records, family=family) for family in FAMILIES},
        kept=kept_share(run),
        cost=run.get("cost"),
    )


def _mean(records: list[Record], **which) -> float | None:
    found = scores(records, **which)
    return 100 * float(found.mean()) if len(found) else None
