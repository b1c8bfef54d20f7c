"""FastVID (Shen et al., *FastVID: Dynamic Density Pruning for Fast Video Large Language Models*, NeurIPS 2025,
arXiv 2503.11187).

Segments are cut where the cosine of adjacent frame means is below 0.9, and at the 7 lowest. Of a frame's n tokens
60 % are the most salient ones by received attention. The other 40 % are context tokens: those of a whole segment are
chosen on every 4th frame of it by density peaks, ρ·δ with ρ over 4 nearest neighbours. Every token of the segment
that is not kept goes to its most similar context token, a' = w·a + (1 - w)·mean, w = max(0.6, 1/(members + 1)).

Deviations:
- n is not int(P·r) but the even share of an exact budget of the video; 60 : 40 is rounded in each frame.
- Salient tokens are chosen first and are no candidates for context.
- The published code counts every 4th frame from the end of a segment and merges each token into one context token of
  each such frame. Here frames count from the start, and a token goes to one context token of the segment.
- From a retention of about 45 % on, every 4th frame cannot hold the context of its segment; there each frame of
  such a segment holds its own.
- Segments that get no context token (budgets of one token a frame) drop what they do not keep.
- Tokens are chosen after projector and pooling, and frames are described by the mean of their pooled tokens.
"""

import torch

from ..clips import dynamic_clips
from ..config import AOTConfig
from ..indexing import rank_descending, true_indices
from ..ops.common import at_least_float32, unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import count, number
from .common import anchored_mean, even_budgets, gather_members, log_peaks, mean_squared_distances, rounded_share


def _check(options: dict) -> None:
    number("option threshold", options["threshold"], -1, 1, False)
    number("option salient", options["salient"], 0, 1, False)
    number("option anchor_weight", options["anchor_weight"], 0, 1, False)
    for name in ("cuts", "stride", "neighbours"):
        count(f"option {name}", options[name], 1)


@register(
    "fastvid",
    options={"threshold": 0.9, "cuts": 8, "salient": 0.6, "stride": 4, "neighbours": 4, "anchor_weight": 0.6},
    requires=("attention_last",),
    check=_check,
)
def fastvid(video: VideoTokens, config: AOTConfig) -> Selection:
    """Options: threshold and cuts (cuts - 1 lowest) of segments; salient, its share of a frame's tokens; stride of the
    frames with context; neighbours of the density; anchor_weight, the least w."""
    options, pooled = config.options, video.pooled
    budget = config.budget(video.frames, video.tokens_per_frame)
    counts = even_budgets(budget, video.frames)
    most = [rounded_share(n, float(options["salient"])) for n in counts]
    lengths = video.clips or dynamic_clips(
        pooled.float().mean(1), threshold=float(options["threshold"]), cuts=options["cuts"]
    )
    saliency = rank_descending(video.pooled_extra("attention_last"))
    salient = saliency < torch.tensor(most, device=pooled.device).unsqueeze(1)
    own = [n - k for n, k in zip(counts, most, strict=True)]
    quota = context_quota(own, [video.tokens_per_frame - k for k in most], lengths, options["stride"])
    context = context_tokens(pooled, ~salient, quota, options["neighbours"])
    target = segment_targets(unit(pooled), salient, context, quota, lengths)
    index = true_indices((salient | context).flatten(), budget)
    flat = pooled.flatten(0, 1)
    sums, mass = gather_members(flat, target, index)
    weight = mass.reciprocal().clamp_min(float(options["anchor_weight"]))  # mass is members + 1
    return Selection.from_indices(
        anchored_mean(at_least_float32(flat[index]), sums, mass, weight).to(flat.dtype),
        index,
        video.pooled_grid,
        kind=torch.where(context.flatten()[index], int(TokenKind.LOCAL), int(TokenKind.GLOBAL)),
        mass=mass,
        clips=lengths,
    )


def context_quota(own: list[int], room: list[int], lengths: list[int], stride: int) -> list[int]:
    """Context tokens of each frame: those of a segment, evenly on every stride-th of its frames.

    own: context tokens that each frame adds to its segment. room: tokens of each frame that are not salient. A
    segment whose stride-th frames have no room for them leaves each frame its own.
    """
    quota, start = list(own), 0
    for length in lengths:
        chosen = range(start, start + length, stride)
        total = sum(own[start : start + length])
        spread = even_budgets(total, len(chosen))
        if all(part <= room[frame] for part, frame in zip(spread, chosen, strict=True)):
            quota[start : start + length] = [0] * length
            for part, frame in zip(spread, chosen, strict=True):
                quota[frame] = part
        start += length
    return quota


def context_tokens(pooled: torch.Tensor, free: torch.Tensor, quota: list[int], neighbours: int) -> torch.Tensor:
    """(T, P) bool density peaks among the free (T, P) tokens of each frame, quota of them. pooled: (T, P, D)."""
    frames = torch.tensor([frame for frame, part in enumerate(quota) if part], dtype=torch.int64, device=free.device)
    parts = torch.tensor([part for part in quota if part], dtype=torch.int64, device=free.device)
    valid = free[frames]
    peaks = log_peaks(mean_squared_distances(pooled[frames], valid), valid, neighbours)
    return torch.zeros_like(free).index_copy_(0, frames, rank_descending(peaks) < parts.unsqueeze(1))


def segment_targets(
    units: torch.Tensor, salient: torch.Tensor, context: torch.Tensor, quota: list[int], lengths: list[int]
) -> torch.Tensor:
    """(T·P,) int64 flat index of the token that each one goes to: kept ones to themselves, others to the context token
    of their segment with the highest cosine, T·P where it has none.

    units: (T, P, D) of length 1. salient, context: (T, P) bool. quota: context tokens of each frame.
    """
    frames, per_frame, _ = units.shape
    nearest, start = [], 0
    for length in lengths:
        end, size = start + length, sum(quota[start : start + length])
        tokens = units[start:end].flatten(0, 1)
        if size:
            anchor = true_indices(context[start:end].flatten(), size)
            nearest.append(anchor[(tokens @ tokens[anchor].T).argmax(-1)] + start * per_frame)
        else:
            nearest.append(torch.full((length * per_frame,), frames * per_frame, device=units.device))
        start = end
    place = torch.arange(frames * per_frame, device=units.device)
    return torch.where((salient | context).flatten(), place, torch.cat(nearest))
