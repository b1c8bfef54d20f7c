"""DPC-kNN: density peak clustering on nearest neighbours (Du, Ding, Jia, Knowledge-Based Systems 2016), batched.

A point's density is ρ = exp(-mean squared distance to its k nearest points), δ its distance to the nearest denser
point; the points with the highest ρ·δ are centres and every other point joins its nearest centre. As in the
token clustering that these methods build on (Zeng et al., TCFormer, CVPR 2022), squared distances are means over
channels and a point counts among its own k nearest. Equal densities are told apart by order, not by noise, so
the result repeats. ρ·δ is compared through its logarithm, which cannot underflow.
"""

from dataclasses import dataclass

import torch

from ..indexing import rank_descending

# stands for log 0 of a valid point: below every real score, above the -inf of a point that takes no part
_LOG_ZERO = -1e30


@dataclass(frozen=True)
class Clusters:
    """center: (G, M) bool. label: (G, M) int64, which of the M is a point's centre; -1 without one."""

    center: torch.Tensor
    label: torch.Tensor


def mean_squared_distances(points: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(G, M, M) float32 ‖a - b‖²/D, inf where a or b is not valid. points: (G, M, D). valid: (G, M) bool."""
    points = points.float()
    # moved to their mean first: the expanded square loses digits far from the origin
    points = points - points.mean(dim=1, keepdim=True)
    square = points.square().sum(-1)
    distance = torch.baddbmm(square.unsqueeze(1), points, points.transpose(1, 2), alpha=-2)
    distance = distance.add_(square.unsqueeze(2)).clamp_min_(0).div_(points.shape[-1])
    distance.diagonal(dim1=1, dim2=2).zero_()
    # the same in both directions to the last bit, so that equal densities are equal
    distance = torch.maximum(distance, distance.transpose(1, 2))
    return distance.masked_fill_(~(valid.unsqueeze(1) & valid.unsqueeze(2)), torch.inf)


def log_peaks(distance: torch.Tensor, valid: torch.Tensor, neighbours: int) -> torch.Tensor:
    """(G, M) float32 log(ρ·δ), -inf where not valid. distance: (G, M, M) of `mean_squared_distances`."""
    near = distance.topk(min(neighbours, distance.shape[-1]), dim=-1, largest=False).values
    found = near.isfinite()
    density = -near.masked_fill(~found, 0).sum(-1) / found.sum(-1).clamp_min(1)
    density = density.masked_fill(~valid, -torch.inf)
    mine, other = density.unsqueeze(2), density.unsqueeze(1)
    place = torch.arange(distance.shape[-1], device=distance.device)
    denser = (other > mine) | ((other == mine) & (place < place.unsqueeze(1)))
    delta = distance.masked_fill(~denser, torch.inf).amin(-1)
    # the densest point of all takes its distance to the farthest
    farthest = distance.masked_fill(distance.isinf(), 0).amax(-1)
    delta = torch.where(delta.isinf(), farthest, delta)
    score = (delta.log() / 2 + density).clamp_min(_LOG_ZERO)
    return score.masked_fill(~valid, -torch.inf)


def dpc_knn(points: torch.Tensor, valid: torch.Tensor, counts: torch.Tensor, *, neighbours: int) -> Clusters:
    """Clusters G sets of points at once; nothing waits for the device.

    points: (G, M, D). valid: (G, M) bool, which points belong to a set. counts: (G,) int64 centres of each set, at
    most its valid points. A set of no centres leaves its points without a label.
    """
    distance = mean_squared_distances(points, valid)
    rank = rank_descending(log_peaks(distance, valid, neighbours))
    center = (rank < counts.unsqueeze(-1)) & valid
    nearest = distance.masked_fill(~center.unsqueeze(1), torch.inf).argmin(-1)
    place = torch.arange(valid.shape[-1], device=valid.device)
    label = torch.where(center, place, nearest)
    return Clusters(center, label.masked_fill(~valid | (counts < 1).unsqueeze(-1), -1))
