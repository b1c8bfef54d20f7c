"""The default schedule: choose the kept tokens once on the pooled grid, then transport the rest onto them.

The budget is exact, every token is emitted once in frame and raster order, and all frames and clips are
processed at once. The device is waited for once, and once more each for dynamic clips and for selection
"coverage", whatever T is.
"""

import torch

from .anchors import choose, local_share, rank_descending, true_indices, window_counts, window_ids
from .carry import transport_clips
from .config import AOTConfig
from .coverage import cover
from .ops import novelty
from .pooling import pool_tokens
from .result import Kind, Selection, kept
from .scores import Scores, relative, token_scores, unit
from .temporal import clip_lengths, clip_starts, join_clips
from .transport import grid_distances
from .video import VideoTokens


def compress_joint(video: VideoTokens, config: AOTConfig) -> Selection:
    """Default schedule of the method "aot"; see docs/method.md for each step."""
    frames, per_frame = video.frames, video.tokens_per_frame
    budget = config.budget(frames, per_frame)
    clips = join_clips(clip_lengths(video, config), budget)
    device = video.features.device
    if budget == frames * per_frame:
        index = torch.arange(budget, device=device)
        return kept(video.pooled.flatten(0, 1), index, video.pooled_grid, clips=clips)
    starts = clip_starts(clips, device)
    # in a stream the first frame of the video was shown before
    shown = starts if config.key_frames == "clip" else starts[: int(video.before is None)]
    first = torch.zeros(frames, dtype=torch.bool, device=device).index_fill(0, shown, True)
    change, rarity = frame_novelty(video, config)
    scores = token_scores(
        change,
        rarity,
        video.pooled_shallow,
        video.pooled_deep,
        first,
        refresh=config.refresh,
        attention_power=config.attention_power,
        change_power=config.change_power,
        rarity_power=config.rarity_power,
    )
    counts = frame_budgets(scores.global_, starts, budget, config.frame_floor)
    local, global_ = choose_tokens(scores, counts, video, config)
    index = true_indices((local | global_).flatten(), budget)
    kind = torch.where(local.flatten()[index], int(Kind.LOCAL), int(Kind.GLOBAL))
    tokens, mass, trace = transport_clips(video, index, clips, config)
    if video.trace:
        trace |= {"shallow": video.pooled_shallow, "deep": video.pooled_deep, "frame_budget": counts}
        trace |= {"local_score": scores.local, "global_score": scores.global_}
        trace |= {"change": scores.change, "rarity": scores.rarity}
    return kept(tokens, index, video.pooled_grid, kind=kind, mass=mass, clips=clips, trace=trace)


def frame_novelty(video: VideoTokens, config: AOTConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """change and rarity (T, P) of `ops.novelty`, the first frame seen against the one before it in a stream."""
    if video.before is None:
        return novelty(video.pooled, backend=config.backend)
    earlier = pool_tokens(video.before, video.grid, video.pool)
    change, rarity = novelty(torch.cat([earlier, video.pooled]), backend=config.backend)
    return change[1:], rarity[1:]


def frame_budgets(score: torch.Tensor, starts: torch.Tensor, budget: int, floor: float) -> torch.Tensor:
    """Tokens of each frame, (T,) int64 summing to the budget: where the highest scores of the video lie.

    score: (T, P). starts: (C,) first frame of each clip, C <= budget. floor: share of the budget that is
    spread evenly over frames first. The best token of every clip is in, so that its mass has a place to go.
    """
    frames, per_frame = score.shape
    place = torch.arange(frames, device=score.device)
    clip = torch.searchsorted(starts, place, right=True) - 1
    # the frame with the best token of its clip, the earliest of equals: first of its clip when sorted so
    order = score.amax(dim=-1).argsort(descending=True, stable=True)
    order = order[clip[order].argsort(stable=True)]
    leads = torch.zeros(frames, dtype=torch.bool, device=score.device)
    leads = leads.index_fill(0, order[starts], True)
    rank = rank_descending(score)
    spread = int(floor * budget)
    even = (place + 1) * spread // frames - place * spread // frames
    # 0 the best of each clip, 1 the evenly spread ones, 2 the others; by score within each
    turn = 2 - (rank < even.unsqueeze(-1)).to(torch.uint8)
    turn = turn.masked_fill((rank == 0) & leads.unsqueeze(-1), 0).flatten()
    order = score.flatten().argsort(descending=True, stable=True)
    order = order[turn[order].argsort(stable=True)]
    chosen = order[:budget] // per_frame
    counts = torch.zeros(frames, dtype=torch.int64, device=score.device)
    return counts.index_add_(0, chosen, torch.ones_like(chosen))


def choose_tokens(
    scores: Scores, budget: torch.Tensor, video: VideoTokens, config: AOTConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Local and global anchors, two disjoint (T, P) bool masks. budget: (T,) int64."""
    windows = window_ids(video.pooled_grid, budget.device)
    local = local_share(budget, config.global_ratio)
    counts = window_counts(local, scores.local, windows, config.window_budget)
    left = budget - counts.sum(-1)
    local, global_ = choose(counts, left, scores.local, scores.global_, windows)
    if config.selection == "score":
        return local, global_
    units = unit(video.pooled)
    cost = 1 - torch.bmm(units, units.transpose(1, 2))
    cost += config.spatial_weight * grid_distances(video.pooled_grid, units.device)
    weight = relative(video.pooled_deep) ** config.attention_power
    weight = weight * scores.rarity.clamp_min(1e-6) ** config.rarity_power
    known = scores.change if config.change_power > 0 else torch.full_like(scores.change, 2.0)
    return local, cover(cost, weight, known, scores.global_, local, left, int(left.max()))
