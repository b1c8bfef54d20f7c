"""How a setting stands: its scores, its cost, and its distance to all tokens and to the best of its retention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llava.eval.exam.scoring import interval, scores
from llava.eval.exam.settings import Setting, parse_setting
from llava.eval.world.questions import FAMILIES

FORMS = ("open", "choice", "likelihood", "caption")
SLACK = 1.05  # of the asked share that still counts as equal: presets reach it in steps of an anchor a frame


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
    return 100 * scores(run["replies"]).mean()


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
    replies = run["replies"]
    points, whole = overall(run), overall(full)
    return Standing(
        setting=setting,
        overall=points,
        relative=100 * points / whole if whole else float("nan"),
        to_full=interval(replies, full["replies"]),
        to_first=None if first in (None, setting.name) else interval(replies, runs[first]["replies"]),
        forms={form: _mean(replies, form=form) for form in FORMS},
        families={family: _mean(replies, family=family) for family in FAMILIES},
        kept=kept_share(run),
        cost=run.get("cost"),
    )


def _mean(replies: list[dict], **which) -> float | None:
    found = scores(replies, **which)
    return 100 * float(found.mean()) if len(found) else None
