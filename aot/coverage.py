"""Greedy choice of the tokens that leave the least to be transported inside each frame."""

import torch


def cover(
    cost: torch.Tensor,
    weight: torch.Tensor,
    known: torch.Tensor,
    score: torch.Tensor,
    taken: torch.Tensor,
    count: torch.Tensor,
    steps: int,
) -> torch.Tensor:
    """Chooses `count` further tokens of each frame by facility location, all frames at once.

    A token i that is not kept costs weight_i times the cheapest way to explain it: by what is known without
    this frame (known, (T, P)) or by a kept token j of the frame (cost, (T, P, P), symmetric). Each step keeps
    the token that lowers the sum most; where nothing is left to gain, the order of score (T, P) decides.
    taken: (T, P) bool, kept already. count: (T,) int64, at most `steps`. Returns (T, P) bool without taken.
    """
    frames = torch.arange(cost.shape[0], device=cost.device)
    kept_cost = cost.masked_fill(~taken.unsqueeze(2), torch.inf).amin(dim=1)
    left = torch.minimum(known, kept_cost)
    tie = score / score.amax(dim=1, keepdim=True).clamp_min(torch.finfo(score.dtype).tiny) * 1e-6
    closed = taken.clone()
    for step in range(steps):
        gain = (left.unsqueeze(1) - cost).clamp_min_(0).matmul(weight.unsqueeze(2)).squeeze(2) + tie
        best = gain.masked_fill(closed, -torch.inf).argmax(dim=1)
        active = step < count
        closed[frames, best] |= active
        left = torch.where(active.unsqueeze(1), torch.minimum(left, cost[frames, best]), left)
    return closed & ~taken
