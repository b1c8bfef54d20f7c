"""The default schedule: choose the kept tokens once on the pooled grid, then transport the rest onto them.

The budget is exact, every token is emitted once in frame and raster order, and all frames and clips are
processed at once. The device is waited for once (and once more for dynamic clips), whatever T is.
"""

import torch

from .anchors import choose, local_share, rank_descending, true_indices, window_counts, window_ids
from .config import AOTConfig
from .result import Kind, Selection, kept
from .scores import Scores, token_scores, unit
from .temporal import clip_lengths, join_clips
from .transport import grid_positions, merge, soft_nearest
from .video import VideoTokens


def compress_joint(video: VideoTokens, config: AOTConfig) -> Selection:
    """Default schedule of the method "aot"; see docs/method.md for each step."""
    frames, per_frame = video.frames, video.tokens_per_frame
    budget = config.budget(frames, per_frame)
    device = video.features.device
    if budget == frames * per_frame:
        index = torch.arange(budget, device=device)
        return kept(video.pooled.flatten(0, 1), index, video.pooled_grid, clips=clip_lengths(video, config))
    clips = join_clips(clip_lengths(video, config), budget)
    clip_of_frame = torch.repeat_interleave(
        torch.arange(len(clips), device=device), torch.tensor(clips, device=device), output_size=frames
    )
    first = torch.zeros(frames, dtype=torch.bool, device=device)
    if config.key_frames == "clip":
        first[1:] = clip_of_frame[1:] != clip_of_frame[:-1]
    units = unit(video.pooled)
    scores = token_scores(
        units,
        video.pooled_shallow,
        video.pooled_deep,
        first,
        attention_power=config.attention_power,
        change_power=config.change_power,
        rarity_power=config.rarity_power,
    )
    per_frame_budget = frame_budgets(scores.global_, clip_of_frame, len(clips), budget, config.frame_floor)
    local, global_ = choose_tokens(scores, video, per_frame_budget, config)
    index = true_indices((local | global_).flatten(), budget)
    kind = torch.where(local.flatten()[index], int(Kind.LOCAL), int(Kind.GLOBAL))
    tokens, mass, trace = transport_clips(video, units, index, clips, config)
    if video.trace:
        trace |= {"scores": scores, "frame_budget": per_frame_budget}
    return kept(tokens, index, video.pooled_grid, kind=kind, mass=mass, clips=clips, trace=trace)


def frame_budgets(
    score: torch.Tensor, clip_of_frame: torch.Tensor, clips: int, budget: int, floor: float
) -> torch.Tensor:
    """Tokens of each frame, (T,) int64 summing to the budget: where the highest scores of the video lie.

    score: (T, P). clip_of_frame: (T,) int64. floor: share of the budget that is spread evenly over frames
    first. Every clip gets at least one token, so that its mass has a place to go; clips must be <= budget.
    """
    frames, per_frame = score.shape
    best = score.amax(dim=-1)
    clip_best = torch.full((clips,), -torch.inf, device=score.device).scatter_reduce_(
        0, clip_of_frame, best, "amax"
    )
    leads = best == clip_best[clip_of_frame]
    # of equal leaders the earliest frame of the clip counts
    earlier = torch.tril(clip_of_frame[:, None] == clip_of_frame, diagonal=-1) & leads
    leads &= ~earlier.any(dim=-1)
    rank = rank_descending(score)
    forced = (rank < int(floor * budget / frames)) | ((rank == 0) & leads.unsqueeze(-1))
    order = score.flatten().argsort(descending=True, stable=True)
    order = order[(~forced.flatten()[order]).to(torch.uint8).argsort(stable=True)]
    chosen = order[:budget] // per_frame
    return torch.zeros(frames, dtype=torch.int64, device=score.device).index_add_(
        0, chosen, torch.ones_like(chosen)
    )


def choose_tokens(
    scores: Scores, video: VideoTokens, budget: torch.Tensor, config: AOTConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Local and global anchors, two disjoint (T, P) bool masks; budget: (T,) int64."""
    windows = window_ids(video.pooled_grid, scores.local.device)
    local = local_share(budget, config.global_ratio)
    counts = window_counts(local, video.pooled_shallow, windows, config.window_budget)
    return choose(counts, budget - counts.sum(-1), scores.local, scores.global_, windows)


def transport_clips(
    video: VideoTokens, units: torch.Tensor, index: torch.Tensor, clips: list[int], config: AOTConfig
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Carries every token that is not kept to the kept ones of its clip, all clips at once.

    units: (T, P, D) of length 1. index: (S,) kept flat indices, ascending. Returns tokens (S, D) in the
    input's dtype, masses (S,) that sum to T·P, and a trace.
    """
    pooled = video.pooled
    frames, per_frame, width = pooled.shape
    device = pooled.device
    longest = max(clips)
    lengths = torch.tensor(clips, device=device)
    starts = (lengths.cumsum(0) - lengths) * per_frame
    ends = starts + lengths * per_frame
    low = torch.searchsorted(index, starts)
    count = torch.searchsorted(index, ends) - low
    # the one wait for the device: how many tokens the fullest clip keeps
    most = int(count.max())
    slot = torch.arange(most, device=device)
    filled = slot < count.unsqueeze(-1)  # (C, K)
    anchor = index[(low.unsqueeze(-1) + slot).clamp_max(index.shape[0] - 1)]  # (C, K) flat indices
    place = torch.arange(longest * per_frame, device=device)
    supplier = (starts.unsqueeze(-1) + place).clamp_max(frames * per_frame - 1)  # (C, M) flat indices
    free = torch.ones(frames * per_frame, dtype=torch.bool, device=device).index_fill(0, index, False)
    supply = (free[supplier] & (place < (ends - starts).unsqueeze(-1))).float()

    even = len(clips) * longest == frames
    flat_units = units.flatten(0, 1)
    supplier_units = units.view(len(clips), -1, width) if even else flat_units[supplier]
    cost = 1 - torch.bmm(supplier_units, flat_units[anchor].transpose(1, 2))
    where = spacetime(frames, video.pooled_grid, longest, config, device)
    cost += torch.cdist(where[0][supplier], where[0][anchor], compute_mode="donot_use_mm_for_euclid_dist")
    cost += (where[1][supplier].unsqueeze(-1) - where[1][anchor].unsqueeze(-2)).abs()
    plan = soft_nearest(cost, supply, filled, config.epsilon)

    received = plan.sum(dim=1)
    tokens = pooled.flatten(0, 1)[index]
    if config.merge_strength > 0 and config.merge_cap > 0:
        flat = pooled.flatten(0, 1)
        suppliers = pooled.reshape(len(clips), -1, width) if even else flat[supplier]
        carried = torch.bmm(plan.transpose(1, 2), suppliers.float())
        merged = merge(
            flat[anchor].float(), carried, received, strength=config.merge_strength, cap=config.merge_cap
        )
        slots = true_indices(filled.flatten(), index.shape[0])
        tokens = merged.flatten(0, 1)[slots].to(pooled.dtype)
    slots = true_indices(filled.flatten(), index.shape[0])
    mass = 1 + received.flatten()[slots]
    return tokens, mass, {"plan": plan, "cost": cost, "anchor": anchor} if video.trace else {}


def spacetime(
    frames: int, grid: tuple[int, int], clip_length: int, config: AOTConfig, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted coordinates of all T·P tokens: place (T·P, 2) and time (T·P,)."""
    place = grid_positions(grid, device).repeat(frames, 1) * config.spatial_weight
    time = torch.arange(frames, device=device).repeat_interleave(grid[0] * grid[1]) / clip_length
    return place, time * config.temporal_weight
