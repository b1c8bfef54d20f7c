"""What the other methods share: merging of members, chains and segments of frames, clustering by DPC-kNN."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from ..ops.common import at_least_float32, rank_descending
from ..types import Selection, VideoTokens


def select_tokens(video: VideoTokens, index: torch.Tensor, **settings: Any) -> Selection:
    """The tokens at flat indices (S,), ascending, as they are. settings: of `Selection.from_indices`."""
    return Selection.from_indices(video.pooled.flatten(0, 1)[index], index, video.pooled_grid, **settings)


def rounded_share(count: int, part: float) -> int:
    """part·count to the nearest whole number, halves up; part in [0, 1]."""
    return int(part * count + 0.5)


def best_by_quota(score: torch.Tensor, quota: torch.Tensor, total: int) -> torch.Tensor:
    """Flat indices of the best tokens of every frame, (total,) int64 ascending.

    score: (T, P), higher is better; ties go to the lower place. quota: (T,) float64, tokens wanted of each frame.
    A frame gives ⌊quota⌋ or ⌈quota⌉ tokens, the larger remainders first; what a frame of P tokens cannot give, the
    others give evenly. Nothing waits for the device.
    """
    turn = quota.unsqueeze(-1) - rank_descending(score)
    order = turn.flatten().argsort(descending=True, stable=True)
    return order[:total].sort().values


def even_indices(count: int, total: int, device: torch.device | None = None) -> torch.Tensor:
    """`count` distinct integers spread evenly over [0, total), ascending: ⌊(2i + 1)·total / (2·count)⌋."""
    steps = torch.arange(count, device=device)
    return (2 * steps + 1) * total // (2 * count)


def gather_members(
    points: torch.Tensor, target: torch.Tensor, index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (S, D) and counts (S,), in float32, of the points that go to each kept one, its own included.

    points: (N, D). target: (N,) int64, which point each one goes to, N when it is dropped. index: (S,) int64 kept
    points, all different.
    """
    total, kept = points.shape[0], index.shape[0]
    slot = torch.full((total + 1,), kept, device=index.device)
    slot = slot.index_copy_(0, index, torch.arange(kept, device=index.device))[target]
    points = at_least_float32(points)
    sums = points.new_zeros(kept + 1, points.shape[-1]).index_add_(0, slot, points)
    one = torch.ones(total, dtype=torch.float32, device=points.device)
    counts = one.new_zeros(kept + 1).index_add_(0, slot, one)
    return sums[:kept], counts[:kept]


def others_mean(own: torch.Tensor, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(S, D) mean of a kept point's members without itself, 0 when there are none.

    own: (S, D) float32. sums, counts: of `gather_members`.
    """
    others = (counts - 1).unsqueeze(-1)
    return torch.where(others > 0, (sums - own) / others.clamp_min(1), 0)


def chain_roots(joined: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """(T·K,) int64: the first token of the chain that each token is joined to, itself where it is not.

    joined, partner: (T - 1, K) of frames 1 to T - 1; partner counts inside the frame before.
    """
    pairs, count = joined.shape
    own = torch.arange((pairs + 1) * count, device=partner.device)
    before = own[: pairs * count].view_as(partner) // count * count + partner
    root = torch.cat([own[:count], torch.where(joined.flatten(), before.flatten(), own[count:])])
    for _ in range(pairs.bit_length()):
        root = root[root]
    return root


@dataclass(frozen=True)
class StaticSplit:
    """A video of T frames in G segments.

    lengths: frames of each segment. segment: (T,) int64 segment of each frame. start, length: (G,) int64.
    static: (G, P) bool places that are averaged over their segment; the others are dynamic. means: (G, P, D) float32
    averages of all places.
    """

    lengths: list[int]
    segment: torch.Tensor
    start: torch.Tensor
    length: torch.Tensor
    static: torch.Tensor
    means: torch.Tensor

    @property
    def dynamic(self) -> torch.Tensor:
        """(T, P) bool."""
        return ~self.static[self.segment]

    @property
    def sizes(self) -> torch.Tensor:
        """(G + T,) int64 tokens in the static set of each segment, then in the dynamic set of each frame."""
        return torch.cat([self.static, self.dynamic]).sum(-1)

    def kept_mask(self, static: torch.Tensor, dynamic: torch.Tensor) -> torch.Tensor:
        """(T, P) bool of kept tokens from static (G, P) ones, placed in a segment's first frame, and dynamic
        (T, P) ones."""
        return dynamic.index_copy(0, self.start, dynamic[self.start] | static)


def frame_segments(lengths: list[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(G,) int64 first frame of each segment and (T,) int64 segment of each frame."""
    start = torch.tensor([0, *accumulate(lengths[:-1])], device=device)
    frame = torch.arange(sum(lengths), device=device)
    return start, torch.searchsorted(start, frame, right=True) - 1


def segment_means(values: torch.Tensor, segment: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """(G, ...) means over the frames of each segment. values: (T, ...) float. segment: (T,), length: (G,) int64."""
    sums = values.new_zeros(len(length), *values.shape[1:]).index_add_(0, segment, values)
    return sums / length.view(-1, *[1] * (values.dim() - 1))


def split_static(
    tokens: torch.Tensor, lengths: list[int], score: torch.Tensor, least: float, budget: int
) -> StaticSplit:
    """Averages the places whose score is above `least`, the highest first, while `budget` tokens remain.

    tokens: (T, P, D). score: (G, P) how alike a place stays in its segment. Segments of one frame have nothing to
    average. Averaging a place of L frames takes L - 1 tokens from the T·P.
    """
    frames, per_frame, _ = tokens.shape
    start, segment = frame_segments(lengths, tokens.device)
    length = torch.tensor(lengths, device=tokens.device)
    static = (score > least) & (length > 1).unsqueeze(1)
    # the most alike places first, as long as no more tokens go than the budget asks for
    order = score.masked_fill(~static, -torch.inf).flatten().argsort(descending=True, stable=True)
    saved = (static * (length - 1).unsqueeze(1)).flatten()[order].cumsum(0)
    allowed = torch.zeros_like(static.flatten()).index_copy_(0, order, saved <= frames * per_frame - budget)
    means = segment_means(at_least_float32(tokens), segment, length)
    return StaticSplit(lengths, segment, start, length, static & allowed.view_as(static), means)


# DPC-kNN: density peak clustering on nearest neighbours (Du, Ding, Jia, Knowledge-Based Systems 2016), batched.
#
# A point's density is ρ = exp(-mean squared distance to its k nearest points), δ its distance to the nearest denser
# point; the points with the highest ρ·δ are centres and every other point joins its nearest centre. As in the
# token clustering that these methods build on (Zeng et al., TCFormer, CVPR 2022), squared distances are means over
# channels and a point counts among its own k nearest. Equal densities are told apart by order, not by noise, so
# the result repeats. ρ·δ is compared through its logarithm, which cannot underflow.

# stands for log 0 of a valid point: below every real score, above the -inf of a point that takes no part
_LOG_ZERO = -1e30


@torch.no_grad()
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


@torch.no_grad()
def dpc_knn(
    points: torch.Tensor,
    valid: torch.Tensor,
    counts: torch.Tensor,
    *,
    neighbours: int,
    penalty: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters G sets of points at once: centres (G, M) bool, and labels (G, M) int64, which of the M is a point's
    centre, -1 without one. Nothing waits for the device.

    points: (G, M, D). valid: (G, M) bool, which points belong to a set. counts: (G,) int64 centres of each set, at
    most its valid points. A set of no centres leaves its points without a label. penalty: broadcastable to (G, M),
    subtracted from ρ·δ where centres are chosen.
    """
    distance = mean_squared_distances(points, valid)
    peaks = log_peaks(distance, valid, neighbours)
    if penalty is not None:
        peaks = (peaks.exp() - penalty).masked_fill(~valid, -torch.inf)
    rank = rank_descending(peaks)
    center = (rank < counts.unsqueeze(-1)) & valid
    nearest = distance.masked_fill(~center.unsqueeze(1), torch.inf).argmin(-1)
    place = torch.arange(valid.shape[-1], device=valid.device)
    label = torch.where(center, place, nearest)
    return center, label.masked_fill(~valid | (counts < 1).unsqueeze(-1), -1)
