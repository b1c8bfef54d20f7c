"""Greedy choice of the tokens that leave the least to be transported."""

import torch

from ...ranks import rank_descending


def cover(
    cost: torch.Tensor,
    weight: torch.Tensor,
    taken: torch.Tensor | None,
    free: torch.Tensor,
    count: torch.Tensor,
    *,
    steps: int,
    unexplained: float,
    every: int = 1,
) -> torch.Tensor:
    """(B, n) bool; arguments as in `aot.ops.cover`."""
    problems = torch.arange(cost.shape[0], device=cost.device)
    every = min(every, cost.shape[1])
    if taken is None:
        left = torch.full_like(weight, unexplained)
    else:
        left, free = torch.where(taken.unsqueeze(2), cost, unexplained).amin(dim=1), free & ~taken
    weight = torch.where(weight > 0, weight, 0.0).clamp_max_(1e30)  # NaN weighs nothing
    tie = weight / weight.amax(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) * 1e-6
    tie = tie.masked_fill(~free, -torch.inf)  # -inf: closed
    chosen = torch.zeros_like(free)
    for step in range(steps):
        part = slice(step % every, None, every)
        saved = (left.unsqueeze(1) - cost[:, part]).clamp_min_(0)
        # weights from the left: a CPU multiplies a row by a matrix several times as fast as a matrix by a column
        saved = weight.unsqueeze(1).matmul(saved.transpose(1, 2)).squeeze(1)
        gain, best = (saved + tie[:, part]).nan_to_num_(-torch.inf, torch.inf, -torch.inf).max(dim=1)
        best = best * every + step % every
        new = (gain > -torch.inf) & (step < count)
        chosen[problems, best] |= new
        tie[problems, best] = torch.where(new, -torch.inf, tie[problems, best])
        left = torch.where(new.unsqueeze(1), torch.minimum(left, cost[problems, best]), left)
    missing = count - chosen.sum(dim=1)
    return chosen | (rank_descending(tie) < missing.unsqueeze(1))
