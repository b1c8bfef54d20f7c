"""FastVID (Shen et al., *FastVID: Dynamic Density Pruning for Fast Video Large Language Models*, NeurIPS 2025,
arXiv 2503.11187).

Segments are cut where the cosine of adjacent frame means is below 0.9, and at the 7 lowest. Of a frame's n tokens
n - int(0.4 n) are the most salient ones by received attention. The others are context tokens: those of a whole segment
are chosen on every 4th frame of it, counted from its end, by density peaks, ρ·δ with ρ over 4 nearest neighbours. Every
token of the segment that is not salient, context tokens included, goes to its most similar context token of each such
frame, and context token a becomes w·a + (1 - w)·(mean of the m that came), w = max(0.6, 1/(m + 1)).

Deviations:
- n is not int(P·r) but the even share of an exact budget of the video; a segment's context tokens are shared evenly by
  its context frames without loss.
- From a retention of about 45 % on, every 4th frame cannot hold the context of its segment; there each frame of
  such a segment holds its own, for its own tokens.
- Segments that get no context token (budgets of one token a frame) drop what they do not keep.
- A context token goes to itself among those of its frame, whatever is parallel to it.
- Tokens are chosen after projector and pooling, and frames are described by the mean of their pooled tokens.

Mass shares a token that is not kept evenly between the context tokens it goes to.
"""

import torch

from ..budget import even_budgets
from ..clips import dynamic_clips
from ..config import AOTConfig
from ..ops.common import at_least_float32, rank_descending, true_indices, unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import count_from, number_in
from .common import log_peaks, mean_squared_distances


@register(
    "fastvid",
    options={
        "threshold": number_in(0.9, -1, 1),
        "cuts": count_from(8),
        "salient": number_in(0.6, 0, 1),
        "stride": count_from(4),
        "neighbours": count_from(4),
        "anchor_weight": number_in(0.6, 0, 1),
    },
    requires=("attention_last",),
    tuned={"salient": 0.0},
)
def fastvid(video: VideoTokens, config: AOTConfig) -> Selection:
    """Options: threshold and cuts (cuts - 1 lowest) of segments; salient, its share of a frame's tokens; stride of the
    frames with context; neighbours of the density; anchor_weight, the least w."""
    options, pooled = config.options, video.pooled
    budget = config.budget(video.frames, video.tokens_per_frame)
    counts = even_budgets(budget, video.frames)
    most = [n - int(n * (1 - options["salient"])) for n in counts]
    means = pooled.float().mean(1)
    lengths = video.clips or dynamic_clips(means, threshold=options["threshold"], cuts=options["cuts"])
    saliency = rank_descending(video.pooled_extra("attention_last"))
    salient = saliency < torch.tensor(most, device=pooled.device).unsqueeze(1)
    own = [n - k for n, k in zip(counts, most, strict=True)]
    quota, spans = context_quota(own, [video.tokens_per_frame - k for k in most], lengths, options["stride"])
    # context tokens: density peaks among what is not salient of each frame that has any
    frames = torch.tensor([frame for frame, part in enumerate(quota) if part], dtype=torch.int64, device=pooled.device)
    parts = torch.tensor([part for part in quota if part], dtype=torch.int64, device=pooled.device)
    free = ~salient[frames]
    peaks = log_peaks(mean_squared_distances(pooled[frames], free), free, options["neighbours"])
    context = torch.zeros_like(salient).index_copy_(0, frames, rank_descending(peaks) < parts.unsqueeze(1))
    sums, members, dropped = context_members(at_least_float32(pooled), salient, context, quota, spans)
    index = true_indices((salient | context).flatten(), budget)
    flat = pooled.flatten(0, 1)
    members = members[index].unsqueeze(1)
    weight = (members + 1).reciprocal().clamp_min(options["anchor_weight"])
    centre = at_least_float32(flat[index])
    tokens = torch.where(members > 0, torch.lerp(sums[index] / members.clamp_min(1), centre, weight), centre)
    return Selection.from_indices(
        tokens.to(flat.dtype),
        index,
        video.pooled_grid,
        kind=torch.where(context.flatten()[index], int(TokenKind.LOCAL), int(TokenKind.GLOBAL)),
        mass=1 + dropped[index].float(),
        clips=lengths,
    )


def context_quota(own: list[int], room: list[int], lengths: list[int], stride: int) -> tuple[list[int], list[int]]:
    """Context tokens of each frame, and lengths of the spans of frames whose tokens go to the same ones.

    A segment is a span: all its context tokens lie evenly on every stride-th of its frames, counted from the end. A
    segment whose stride-th frames have no room for them leaves each frame its own, and is cut in spans of one frame.
    own: context tokens that each frame adds to its segment. room: tokens of each frame that are not salient.
    """
    quota, spans, start = list(own), [], 0
    for length in lengths:
        chosen = range(start + (length - 1) % stride, start + length, stride)
        spread = even_budgets(sum(own[start : start + length]), len(chosen))
        if all(part <= room[frame] for part, frame in zip(spread, chosen, strict=True)):
            quota[start : start + length] = [0] * length
            for part, frame in zip(spread, chosen, strict=True):
                quota[frame] = part
            spans.append(length)
        else:
            spans += [1] * length
        start += length
    return quota, spans


def context_members(
    tokens: torch.Tensor, salient: torch.Tensor, context: torch.Tensor, quota: list[int], spans: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What goes to each token of the video as a context token: sums (T·P, D), how many (T·P,), and how many of those
    are not kept (T·P,), each divided by the context frames it goes to. All in the tokens' dtype, 0 for other tokens.

    tokens: (T, P, D) float32 or float64. salient, context: (T, P) bool. quota: context tokens of each frame. spans:
    frames.
    """
    per_frame = tokens.shape[1]
    flat, units = tokens.flatten(0, 1), unit(tokens.detach()).flatten(0, 1)
    free = (~salient).flatten().to(tokens.dtype)
    sums, members, dropped = torch.zeros_like(flat), torch.zeros_like(free), torch.zeros_like(free)
    start = 0
    for length in spans:
        span = slice(start * per_frame, (start + length) * per_frame)
        chosen = [frame for frame in range(start, start + length) if quota[frame]]
        left = free[span] * ~context.flatten()[span] / max(1, len(chosen))
        for frame in chosen:
            anchor = true_indices(context[frame], quota[frame]) + frame * per_frame
            nearest = anchor[(units[span] @ units[anchor].T).argmax(-1)]
            nearest = nearest.index_copy(0, anchor - span.start, anchor)
            sums.index_add_(0, nearest, flat[span] * free[span].unsqueeze(1))
            members.index_add_(0, nearest, free[span])
            dropped.index_add_(0, nearest, left)
        start += length
    return sums, members, dropped
