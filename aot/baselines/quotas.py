"""Counts per frame that are asked as fractions, met exactly in sum."""

import torch

from ..ranks import rank_descending


def by_quota(score: torch.Tensor, quota: torch.Tensor, total: int) -> torch.Tensor:
    """Flat indices of the best tokens of every frame, (total,) int64 ascending.

    score: (T, P), higher is better; ties go to the lower place. quota: (T,) float64, tokens wanted of each frame.
    A frame gives ⌊quota⌋ or ⌈quota⌉ tokens, the larger remainders first; what a frame of P tokens cannot give, the
    others give evenly. Nothing waits for the device.
    """
    turn = quota.unsqueeze(-1) - rank_descending(score)
    order = turn.flatten().argsort(descending=True, stable=True)
    return order[:total].sort().values
