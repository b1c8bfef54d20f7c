"""How the tokens that a video keeps are shared between its clips, frames or sets; `AOTConfig.budget` says how many."""

from itertools import accumulate

import torch

from .config import AOTConfig
from .ops.common import rank_descending


def clip_budgets(lengths: list[int], per_frame: int, config: AOTConfig) -> list[int]:
    """Tokens of each clip: after every clip ⌊retention · frames so far · P⌋ are out in all, but one a clip at least.

    lengths: frames. Clips are at most as many as the budget, so a token that a clip lacks is taken from the fullest.
    """
    spent = [0, *(config.budget(end, per_frame) for end in accumulate(lengths))]
    counts = [after - before for before, after in zip(spent, spent[1:], strict=False)]
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def even_budgets(budget: int, frames: int) -> list[int]:
    """Tokens of each frame, as equal as whole numbers allow: ⌊(t + 1)·budget/T⌋ - ⌊t·budget/T⌋."""
    return [(t + 1) * budget // frames - t * budget // frames for t in range(frames)]


def set_budgets(budget: int | torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """(G,) int64 tokens of each set, in proportion to its size, that sum to the budget (largest remainder).

    sizes: (G,) int64 that sum to at least the budget. Every set that is not empty gets at least one token if
    there are enough for that.
    """
    present = (sizes > 0).long()
    least = present * (present.sum() <= budget)
    rest, room = budget - least.sum(), sizes - least
    every = room.sum().clamp_min(1)
    whole, part = rest * room // every, rest * room % every
    return least + whole + (rank_descending(part) < rest - whole.sum())
