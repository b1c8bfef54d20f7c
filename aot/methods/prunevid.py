"""PruneVid (Huang, Zhou, Han, *PruneVid: Visual Token Pruning for Efficient Video Large Language Models*, Findings of
ACL 2025, arXiv 2412.16117): the merging in front of the language model.

Segments are DPC-kNN clusters of frame means. A place whose mean pairwise cosine inside its segment is above 0.8 is
static and averaged over time. The static places of a segment and the dynamic ones of each frame are clustered by
DPC-kNN, and the means of the clusters are kept.

Of a cluster of frames the longest runs stay, if they have more than one frame. What lies between goes to the longer
neighbour, to the earlier of equals. Sets of 14 tokens or fewer are left as they are.

Deviations:
- The paper keeps half of each larger set and prunes further inside the language model. Here larger sets share what
  the budget allows, by largest remainder, at least one token if there are enough. Where the small sets would leave
  them less than one token each, all sets share.
- Static places are averaged, the most alike first, only while the tokens that remain fill the budget.
- Segments of one frame have no pairs and are dynamic.
- A cluster is placed at its centre, a static one in the first frame of its segment, so that tokens stay in
  frame and raster order.
"""

from itertools import groupby

import torch

from ..budget import set_budgets
from ..config import AOTConfig
from ..ops.common import true_indices, unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import count_from, number_in
from .common import dpc_knn, frame_segments, gather_members, split_static


@register(
    "prunevid",
    options={
        "segments": number_in(0.25, 0, 1),
        "threshold": number_in(0.8, -1, 1),
        "neighbours": count_from(7),
        "alone": count_from(14, 0),
    },
    tuned={"threshold": 0.97},
)
def prunevid(video: VideoTokens, config: AOTConfig) -> Selection:
    """Options: segments, their number as a share of the frames; threshold of static places; neighbours of DPC-kNN;
    alone, tokens up to which a set stays as it is."""
    options, pooled = config.options, video.pooled
    budget = config.budget(video.frames, video.tokens_per_frame)
    most = max(1, int(options["segments"] * video.frames))
    lengths = video.clips or density_segments(pooled.float().mean(1), most, neighbours=options["neighbours"])
    alike = pairwise_cosine(unit(pooled), lengths)
    split = split_static(pooled, lengths, alike, options["threshold"], budget)
    points = torch.cat([split.means, pooled.float()])
    valid = torch.cat([split.static, split.dynamic])
    counts = merged_counts(budget, split.sizes, options["alone"])
    center, label = (
        part.split([len(lengths), video.frames])  # of static sets, of dynamic ones
        for part in dpc_knn(points, valid, counts, neighbours=options["neighbours"])
    )
    index = true_indices(split.kept_mask(*center).flatten(), budget)
    # the centre that each token goes to, as a flat index, T·P when it has none
    place = torch.where(split.dynamic, label[1], label[0][split.segment])
    frame = torch.arange(video.frames, device=place.device).unsqueeze(1)
    frame = torch.where(split.dynamic, frame, split.start[split.segment].unsqueeze(1))
    everything = video.frames * video.tokens_per_frame
    target = torch.where(place < 0, everything, frame * video.tokens_per_frame + place)
    sums, mass = gather_members(pooled.flatten(0, 1), target.flatten(), index)
    return Selection.from_indices(
        (sums / mass.unsqueeze(1)).to(pooled.dtype),
        index,
        video.pooled_grid,
        kind=torch.where(split.dynamic.flatten()[index], int(TokenKind.DYNAMIC), int(TokenKind.LOCAL)),
        mass=mass,
        clips=lengths,
    )


def density_segments(means: torch.Tensor, count: int, *, neighbours: int) -> list[int]:
    """Lengths of at most `count` segments: DPC-kNN clusters of frame means, made contiguous.

    means: (T, D). Waits once for the device.
    """
    everything = torch.ones(1, means.shape[0], dtype=torch.bool, device=means.device)
    counts = torch.full((1,), min(count, means.shape[0]), device=means.device)
    _, label = dpc_knn(means.unsqueeze(0), everything, counts, neighbours=neighbours)
    return contiguous_lengths(label[0].tolist())


def contiguous_lengths(labels: list[int]) -> list[int]:
    """Segment lengths: the longest runs of each label, if they have more than one frame; neighbours of a label are one.

    A stretch of other frames goes to the longer of the runs beside it, to the earlier of equals.
    """
    runs = [(label, sum(1 for _ in frames)) for label, frames in groupby(labels)]
    longest = {label: max(length for other, length in runs if other == label) for label in set(labels)}
    kept = [(label if length == longest[label] > 1 else None, length) for label, length in runs]
    merged: list[tuple[int | None, int]] = []
    gap = 0  # frames without a run since the last one
    for label, length in kept:
        if label is None:
            gap += length
            continue
        if merged and merged[-1][1] >= length:
            merged[-1] = merged[-1][0], merged[-1][1] + gap
        else:
            length += gap
        gap = 0
        if merged and merged[-1][0] == label:
            length += merged.pop()[1]
        merged.append((label, length))
    if gap and merged:
        merged[-1] = merged[-1][0], merged[-1][1] + gap
    return [length for _, length in merged] or [len(labels)]


def merged_counts(budget: int, sizes: torch.Tensor, alone: int) -> torch.Tensor:
    """(G,) int64 tokens that each set keeps, `budget` in all: sets of at most `alone` tokens all of theirs.

    Larger ones share the rest; where that would be less than one each, all share. sizes: (G,) int64 that sum to at
    least the budget.
    """
    small = sizes.where(sizes <= alone, 0)
    larger = sizes - small
    rest = budget - small.sum()
    enough = (rest >= (larger > 0).sum()) & (rest <= larger.sum())
    return torch.where(enough, small + set_budgets(rest, larger), set_budgets(budget, sizes))


def pairwise_cosine(units: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """(G, P) mean cosine of all pairs of different frames in a segment at each place; 0 for one frame.

    units: (T, P, D) of length 1. From (‖Σ u‖² - Σ‖u‖²) / (L(L - 1)).
    """
    _, segment = frame_segments(lengths, units.device)
    sums = units.new_zeros(len(lengths), *units.shape[1:]).index_add_(0, segment, units)
    own = units.new_zeros(len(lengths), units.shape[1]).index_add_(0, segment, units.square().sum(-1))
    length = torch.tensor(lengths, device=units.device).unsqueeze(1)
    return (sums.square().sum(-1) - own) / (length * (length - 1)).clamp_min(1)
