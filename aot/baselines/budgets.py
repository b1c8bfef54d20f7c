"""How a budget is split between frames or sets of tokens: exactly, by the same rule every time."""

import torch

from ..ranks import rank_descending


def even_budgets(budget: int, frames: int) -> list[int]:
    """Tokens of each frame, as equal as whole numbers allow: ⌊(t + 1)·budget/T⌋ - ⌊t·budget/T⌋."""
    return [(t + 1) * budget // frames - t * budget // frames for t in range(frames)]


def rounded_part(count: int, part: float) -> int:
    """part·count to the nearest whole number, halves up; part in [0, 1]."""
    return int(part * count + 0.5)


def set_budgets(budget: int, sizes: torch.Tensor) -> torch.Tensor:
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
