"""HoliTom (Shao et al., *HoliTom: Holistic Token Merging for Fast Video Large Language Models*, NeurIPS 2025,
arXiv 2505.21334): the merging in front of the language model.

A place is alike in two adjacent frames when their cosine exceeds τ (0.65 at a retention of 10 %, else 0.8). A dynamic
programme cuts the video in windows that maximise Σ (places alike all through a window)·(length - 1). These places
are averaged over the window. What remains is cut to r' = min(r / (1 - pruned share), 1): dynamic tokens by
received attention, static ones by DPC-kNN, each centre becoming 0.6·centre + 0.4·(mean of its members).

Deviations:
- r' is applied to the static set of each window and the dynamic set of each frame by largest remainder, so the count
  is exact; a set keeps at least one token if there are enough.
- Where averaging alone would leave fewer tokens than asked for, places are averaged in the order of their lowest
  cosine only while the tokens that remain fill the budget. r' = 1 means fewer tokens in the paper.
- τ is 0.65 at 10 % and below; the paper has no lower retention.
- DPC-kNN counts 7 neighbours as PruneVid does, and a centre is not among its members.
- Dynamic tokens that are not kept are dropped. Tokens stand in frame and raster order, static ones in the first
  frame of their window.
"""

import torch

from ..budget import set_budgets
from ..config import AOTConfig
from ..ops.common import rank_descending, true_indices, unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import count_from, number_in
from .common import StaticSplit, dpc_knn, frame_segments, gather_members, others_mean, split_static


@register(
    "holitom",
    options={
        "threshold": number_in(None, -1, 1),
        "center_weight": number_in(0.6, 0, 1),
        "neighbours": count_from(7),
    },
    requires=("attention_last",),
    tuned={"threshold": 0.9},
)
def holitom(video: VideoTokens, config: AOTConfig) -> Selection:
    """Options: threshold τ (None: by the retention); center_weight of a cluster's centre; neighbours of DPC-kNN."""
    options, pooled = config.options, video.pooled
    budget = config.budget(video.frames, video.tokens_per_frame)
    usual = 0.65 if config.retention <= 0.1 else 0.8
    threshold = usual if options["threshold"] is None else options["threshold"]
    units = unit(pooled)
    cosine = torch.linalg.vecdot(units[1:], units[:-1])  # (T - 1, P), of each place in frames t and t + 1
    lengths = video.clips or static_windows(cosine > threshold)
    split = split_static(pooled, lengths, lowest_cosine(cosine, lengths), threshold, budget)
    return merge_and_choose(
        video,
        split,
        video.pooled_extra("attention_last"),
        budget,
        center_weight=options["center_weight"],
        neighbours=options["neighbours"],
    )


def merge_and_choose(
    video: VideoTokens,
    split: StaticSplit,
    saliency: torch.Tensor,
    budget: int,
    *,
    center_weight: float,
    neighbours: int,
    penalty: torch.Tensor | None = None,
) -> Selection:
    """What follows the averaging over windows: the most salient dynamic tokens, and centres of the static ones.

    saliency: (T, P) float32. penalty: of `dpc_knn`, on the peaks of static places.
    """
    per_frame = video.tokens_per_frame
    static_counts, dynamic_counts = set_budgets(budget, split.sizes).split([len(split.lengths), video.frames])
    salient = rank_descending(saliency.masked_fill(~split.dynamic, -torch.inf)) < dynamic_counts.unsqueeze(1)
    center, label = dpc_knn(split.means, split.static, static_counts, neighbours=neighbours, penalty=penalty)
    merged, mass = merge_static(split, label, center_weight)
    index = true_indices(split.kept_mask(center, salient).flatten(), budget)
    dynamic = split.dynamic.flatten()[index]
    place = split.segment[index // per_frame] * per_frame + index % per_frame
    flat = video.pooled.flatten(0, 1)
    return Selection.from_indices(
        torch.where(dynamic.unsqueeze(1), flat[index], merged[place].to(flat.dtype)),
        index,
        video.pooled_grid,
        kind=torch.where(dynamic, int(TokenKind.DYNAMIC), int(TokenKind.LOCAL)),
        mass=torch.where(dynamic, 1.0, mass[place]),
        clips=split.lengths,
    )


def static_windows(alike: torch.Tensor) -> list[int]:
    """Window lengths that maximise Σ (places alike in all steps of a window)·(length - 1); of equals, short ones.

    alike: (T - 1, P) bool, whether a place is alike in frames t and t + 1. Dynamic programme over the last
    window's start; O(T·(T + P)) and one wait for the device.
    """
    steps = alike.shape[0]
    if steps == 0:
        return [1]
    # frame since which a place has been alike without a break, of frames 1 to T - 1
    frame = torch.arange(1, steps + 1, device=alike.device).unsqueeze(1)
    since = torch.where(alike, 0, frame).cummax(dim=0).values
    static = torch.zeros(steps, steps + 1, dtype=torch.int64, device=alike.device)
    static = static.scatter_add_(1, since, torch.ones_like(since)).cumsum(1).tolist()
    best, start = [0, 0], [0]
    for last in range(1, steps + 1):
        row = static[last - 1]
        gain = [best[i] + row[i] * (last - i) for i in range(last + 1)]
        start.append(max(range(last, -1, -1), key=gain.__getitem__))
        best.append(gain[start[-1]])
    lengths, end = [], steps + 1
    while end > 0:
        lengths.append(end - start[end - 1])
        end = start[end - 1]
    return lengths[::-1]


def lowest_cosine(cosine: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """(G, P) lowest cosine of each place inside a window, inf for windows of one frame. cosine: (T - 1, P)."""
    _, segment = frame_segments(lengths, cosine.device)
    inside = (segment[1:] == segment[:-1]).unsqueeze(1)
    lowest = cosine.new_full((len(lengths), cosine.shape[1]), torch.inf)
    window = segment[1:].unsqueeze(1).expand_as(cosine)
    return lowest.scatter_reduce_(0, window, cosine.masked_fill(~inside, torch.inf), "amin")


def merge_static(split: StaticSplit, label: torch.Tensor, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Static averages (G·P, D) merged at their centres, and the tokens (G·P,) float32 that each stands for.

    label: (G, P) int64 centre of each static place, -1 elsewhere. Rows that are no centres mean nothing.
    """
    windows, per_frame = label.shape
    row = torch.arange(windows, device=label.device).unsqueeze(1)
    target = torch.where(label < 0, windows * per_frame, row * per_frame + label).flatten()
    points = split.means.flatten(0, 1)
    sums, counts = gather_members(points, target, torch.arange(windows * per_frame, device=label.device))
    mass = counts * split.length.repeat_interleave(per_frame, output_size=windows * per_frame)
    # weight·centre + (1 - weight)·(mean of its other members); one without others stays as it is
    weights = torch.ones_like(counts, dtype=points.dtype).masked_fill_(counts > 1, weight).unsqueeze(-1)
    return torch.lerp(others_mean(points, sums, counts), points, weights), mass
