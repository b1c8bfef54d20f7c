"""FlashVID (Fan et al., ICLR 2026, arXiv 2602.08024): the part before the language model.

Segments are cut where the cosine of adjacent frame means is below 0.9, the lowest first until there are 8.

1. 70 % of a frame's tokens by attention and diversity: greedily the token farthest from all chosen, at the distance
   d_ij = (1 - cos) · s_j · e_j, with s the attention received in the last layer and e_j the inner product of token j
   with the mean of its segment's frame means.
2. A token left over joins the most similar one left over in the frame before, inside the segment, where their cosine
   exceeds 0.8; trees are averaged at their first token.
3. The averages of each frame are clustered by DPC-kNN; the means of the clusters are the other 30 %, shared between
   the frames of a segment in proportion to the averages they hold.

Deviations: the published method lets 1.25 r of the tokens into the language model and drops the rest inside it; here
r enter, exactly. 70 % is taken of each frame's whole tokens and rounded. Of the links, the most similar are made as
long as enough averages are left for the budget. A tree's average is that of its tokens; the published code counts a
branch as one token. e is not let below 0. DPC-kNN counts 7 neighbours and tells equal densities apart by order. Where
a frame gets no cluster, what it holds is dropped.
"""

import torch

from ..budget import even_budgets
from ..clips import dynamic_clips
from ..config import AOTConfig
from ..ops.common import at_least_float32, rank_descending, relative_importance, true_indices, unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import number_in
from .common import chain_roots, dpc_knn, frame_segments, gather_members, rounded_share, segment_means, select_tokens

SEGMENT_BELOW, SEGMENTS = 0.9, 8
NEIGHBOURS = 7


@register(
    "flashvid",
    options={"diverse": number_in(0.7, 0, 1), "link_above": number_in(0.8, -1, 1)},
    requires=("attention_last",),
)
def flashvid(video: VideoTokens, config: AOTConfig) -> Selection:
    """Salient and diverse tokens of every frame, and means of what is left over along time and in space.

    Options: diverse, the share of a frame's tokens that step 1 chooses; link_above, the least cosine of a link.
    """
    frames, per_frame = video.frames, video.tokens_per_frame
    budget = config.budget(frames, per_frame)
    flat, device = video.pooled.flatten(0, 1), video.features.device
    means = video.pooled.float().mean(dim=1)
    clips = dynamic_clips(means, threshold=SEGMENT_BELOW, cuts=SEGMENTS) if video.clips is None else video.clips
    if budget == frames * per_frame:
        return select_tokens(video, torch.arange(budget, device=device), clips=clips)
    _, segment = frame_segments(clips, device)
    whole = even_budgets(budget, frames)
    diverse = [rounded_share(count, config.options["diverse"]) for count in whole]
    merged = torch.tensor(whole, device=device) - torch.tensor(diverse, device=device)

    units = unit(video.pooled)
    saliency = relative_importance(video.pooled_extra("attention_last"))
    scene = segment_means(means, segment, torch.tensor(clips, device=device))[
        segment
    ]  # (T, D), the mean of each frame's segment
    relevance = torch.einsum("tpd,td->tp", video.pooled.float(), scene).clamp_min(0)
    chosen = diverse_tokens(units, saliency * relevance, diverse)
    joined, partner = link(units, chosen, segment, merged, config.options["link_above"])
    root = chain_roots(joined, partner)
    own = torch.arange(frames * per_frame, device=device)
    one = torch.ones(frames * per_frame, dtype=torch.float32, device=device)
    size = torch.zeros_like(one).index_add_(0, root, one)
    average = at_least_float32(torch.zeros_like(flat)).index_add_(0, root, at_least_float32(flat))
    average = average / size.clamp_min(1).unsqueeze(-1)

    held = (root == own).view(frames, per_frame) & ~chosen
    counts = cluster_counts(held.sum(dim=1), merged, segment, budget - sum(diverse))
    center, label = dpc_knn(average.view_as(video.pooled), held, counts, neighbours=NEIGHBOURS)
    index = true_indices((chosen | center).flatten(), budget)
    place = own.view(frames, per_frame)
    joins = torch.where(label >= 0, place[:, :1] + label, frames * per_frame)
    target = torch.where(chosen, place, joins).flatten()
    sums, members = gather_members(average, target, index)
    mass = gather_members(size.unsqueeze(-1), target, index)[0].squeeze(-1)
    tokens = (sums / members.unsqueeze(-1)).to(flat.dtype)
    kind = torch.where(chosen.flatten()[index], int(TokenKind.GLOBAL), int(TokenKind.LOCAL))
    return Selection.from_indices(tokens, index, video.pooled_grid, kind=kind, mass=mass, clips=clips)


def diverse_tokens(units: torch.Tensor, weight: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Step 1, (T, P) bool: counts[t] tokens of frame t, each the farthest from those chosen before it.

    units: (T, P, D) of length 1. weight: (T, P), by which the distance to a token is multiplied. The first is the
    token farthest from its nearest neighbour; ties go to the lower place.
    """
    frames = torch.arange(units.shape[0], device=units.device)
    wanted = torch.tensor(counts, device=units.device)
    distance = (1 - torch.bmm(units, units.transpose(1, 2))).clamp_min(0) * weight.unsqueeze(1)
    alone = distance.clone()
    alone.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    near = alone.amin(dim=1)
    chosen = torch.zeros_like(weight, dtype=torch.bool)
    for step in range(max(counts)):
        best = near.masked_fill(chosen, -1).argmax(dim=1)
        chosen[frames, best] |= step < wanted
        near = distance[frames, best] if step == 0 else torch.minimum(near, distance[frames, best])
    return chosen


def link(
    units: torch.Tensor, chosen: torch.Tensor, segment: torch.Tensor, merged: torch.Tensor, least: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Step 2: which tokens of frames 1 to T - 1 join one of the frame before, (T - 1, P) bool, and which, int64.

    units: (T, P, D) of length 1. chosen: (T, P) bool, tokens that take no part. segment, merged: (T,) int64; a segment
    keeps at least the sum of its frames' merged. least: the cosine that a link exceeds.
    """
    likeness = torch.bmm(units[1:], units[:-1].transpose(1, 2))
    likeness = likeness.masked_fill_(chosen[:-1].unsqueeze(1), -torch.inf)
    cosine, partner = likeness.max(dim=2)
    inside = (segment[1:] == segment[:-1]).unsqueeze(1)
    cosine = cosine.masked_fill(chosen[1:] | ~inside, -torch.inf)
    # the rank of a link in its segment: by cosine, then stably by segment
    owner = segment[1:].unsqueeze(1).expand_as(cosine).flatten()
    order = cosine.flatten().argsort(descending=True, stable=True)
    order = order[owner[order].argsort(stable=True)]
    links = torch.zeros_like(segment).index_add_(0, owner, torch.ones_like(owner))
    first = links.cumsum(0) - links
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.shape[0], device=order.device) - first[owner[order]]
    spare = torch.zeros_like(segment).index_add_(0, segment, (~chosen).sum(dim=1) - merged)
    joined = (cosine > least) & (rank < spare[owner]).view_as(cosine)
    return joined, partner


def cluster_counts(held: torch.Tensor, merged: torch.Tensor, segment: torch.Tensor, total: int) -> torch.Tensor:
    """Clusters of each frame, (T,) int64 that sum to `total`, the sum of merged.

    held: (T,) averages in each frame. The clusters of a segment, the sum of its frames' merged, are shared in
    proportion to what its frames hold, by largest remainders.
    """
    wanted = torch.zeros_like(segment).index_add_(0, segment, merged)[segment]
    present = torch.zeros_like(segment).index_add_(0, segment, held)[segment]
    quota = wanted.double() * held / present.clamp_min(1)
    counts = quota.floor().long()
    return counts + (rank_descending(quota - counts) < total - counts.sum())
