"""Intervals by a paired bootstrap: over questions for benchmarks, over clips for the exam.

All settings answer the same questions, so each draw takes the same questions for all of them: what makes a draw of
questions hard is then taken out of the comparison. Questions are drawn within the groups that a benchmark averages
first, and benchmarks are averaged last, as in the tables. The exam asks several questions about a clip, which share its
tokens, so there clips are drawn. Where every draw is the same single question or clip, there is no interval: NaN.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 4000
CLUSTER_DRAWS = 2000
_BLOCK = 250  # draws at a time


class Interval(NamedTuple):
    """Lower and upper end of a 95 % interval."""

    low: float
    high: float


UNKNOWN = Interval(float("nan"), float("nan"))


def compare(tasks: list[list[np.ndarray]], *, draws: int = DRAWS) -> list[tuple[Interval, Interval]]:
    """Bootstrap of all settings against setting 0: for each the intervals of its average as a percentage of setting
    0's, and of its difference to that in points.

    tasks: for each task its groups, each an array (S, n) of scores in 0..1: S settings, the same n questions.
    """
    if all(group.shape[1] < 2 for groups in tasks for group in groups):
        return [(UNKNOWN, UNKNOWN)] * len(tasks[0][0])
    rng = np.random.default_rng(0)
    drawn = []
    for start in range(0, draws, _BLOCK):
        block = min(_BLOCK, draws - start)
        drawn.append(np.mean([np.mean([_means(rng, group, block) for group in groups], 0) for groups in tasks], 0))
    scores = 100 * np.concatenate(drawn, 1)  # (S, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = 100 * scores / scores[:1]
    return [(_interval(share), _interval(row - scores[0])) for share, row in zip(relative, scores, strict=True)]


def cluster_difference(scores: np.ndarray, others: np.ndarray, clusters: Sequence[Hashable]) -> Interval:
    """Interval of how far the mean of scores (n,) is ahead of that of others (n,), in points.

    clusters: of each question; questions of one are drawn together, since they rise and fall together.
    """
    number = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    member = np.array([number[cluster] for cluster in clusters])
    if len(number) < 2:
        return UNKNOWN
    sums, sizes = np.bincount(member, scores - others), np.bincount(member)
    picks = np.random.default_rng(0).integers(len(sums), size=(CLUSTER_DRAWS, len(sums)))
    return _interval(100 * sums[picks].sum(1) / sizes[picks].sum(1))


def _means(rng: np.random.Generator, scores: np.ndarray, draws: int) -> np.ndarray:
    """(S, draws) means of questions drawn with replacement from scores (S, n)."""
    count = scores.shape[1]
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws)  # (draws, n) times each is drawn
    return scores @ weights.T / count


def _interval(values: np.ndarray) -> Interval:
    """Of a reference that draws no right answer at all the relative value does not exist: NaN."""
    if not np.isfinite(values).all():
        return UNKNOWN
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))
