"""Scores of an exam's replies, and what a difference between two settings is worth."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

BOTH = ("open", "choice")
DRAWS = 2000


def scores(replies: list[dict], *, form: str | None = None, family: str | None = None) -> np.ndarray:
    """Scores of the replies of one form and family; of open answers and letters together when form is None."""
    forms = (form,) if form else BOTH
    return np.array([r["score"] for r in replies if r["form"] in forms and family in (None, r["family"])])


def interval(replies: list[dict], others: list[dict]) -> tuple[float, float]:
    """95 % interval of how far replies are ahead of others, in points: paired bootstrap over clips.

    Questions about one clip share its tokens, so clips are drawn, not questions. Open answers and letters count.
    """
    change = defaultdict(list)
    for ours, theirs in zip(replies, others, strict=True):
        assert (ours["clip"], ours["form"], ours["question"]) == (theirs["clip"], theirs["form"], theirs["question"])
        if ours["form"] in BOTH:
            change[ours["clip"]].append(ours["score"] - theirs["score"])
    sums = np.array([sum(c) for c in change.values()])
    sizes = np.array([len(c) for c in change.values()])
    picks = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    low, high = np.percentile(100 * sums[picks].sum(1) / sizes[picks].sum(1), [2.5, 97.5])
    return float(low), float(high)
