"""Space-time transport of a clip's other tokens onto its kept ones, all clips at once (default schedule)."""

from dataclasses import dataclass

import torch

from .anchors import true_indices
from .config import AOTConfig
from .ops import aggregate, pair_cost, sinkhorn
from .temporal import clip_starts
from .transport import merge, soft_nearest
from .video import VideoTokens

# costs reach 2 plus the weights; exp(-3.2 / 0.04) is the least that float32 still tells from 0
LOG_DOMAIN_BELOW = 0.04
_STOP = {"problem": "marginal", "never": "never"}


@dataclass(frozen=True)
class Clips:
    """Kept tokens and suppliers of C clips, padded to the K kept of the fullest and M of the longest.

    anchor: (C, K) and supplier: (C, M) flat token indices. filled: (C, K) bool. supply: (C, M) float32, 1 for
    tokens that are not kept, 0 for kept ones and padding. starts: (C,) first frame of each clip.
    """

    anchor: torch.Tensor
    filled: torch.Tensor
    supplier: torch.Tensor
    supply: torch.Tensor
    starts: torch.Tensor


def transport_clips(
    video: VideoTokens, index: torch.Tensor, clips: list[int], config: AOTConfig
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Carries every token that is not kept to the kept ones of its clip.

    index: (S,) kept flat indices, ascending, at least one per clip. Returns
    tokens (S, D) in the input's dtype, masses (S,) float32 that sum to T·P, and a trace.
    """
    groups = group_clips(index, clips, video.tokens_per_frame)
    longest = max(clips)
    cost = pair_cost(
        video.pooled,
        groups.starts,
        longest,
        groups.anchor,
        grid=video.pooled_grid,
        spatial_weight=config.spatial_weight,
        temporal_weight=config.temporal_weight / longest,
        backend=config.backend,
    )
    plan = clip_plan(cost, groups, config)
    slots = true_indices(groups.filled.flatten(), index.shape[0])
    mass = 1 + plan.sum(dim=1).flatten()[slots]
    tokens = video.pooled.flatten(0, 1)[index]
    if config.merge_strength > 0 and config.merge_cap > 0:
        near = plan if config.merge_reach is None else plan * (cost <= config.merge_reach)
        carried = aggregate(near, video.pooled, groups.starts, longest, backend=config.backend)
        carried = carried.flatten(0, 1)[slots]
        received = near.sum(dim=1).flatten()[slots]
        merged = merge(tokens.float(), carried, received, strength=config.merge_strength, cap=config.merge_cap)
        tokens = merged.to(tokens.dtype)
    trace = {"plan": plan, "cost": cost, "anchor": groups.anchor, "supplier": groups.supplier}
    return tokens, mass, trace if video.trace else {}


def group_clips(index: torch.Tensor, clips: list[int], per_frame: int) -> Clips:
    """Sorts kept tokens (S,) and all others by clip; waits once for the device (the fullest clip)."""
    device = index.device
    tokens = sum(clips) * per_frame
    first = clip_starts(clips, device)
    starts = first.unsqueeze(1) * per_frame
    ends = torch.cat([starts[1:, 0], starts.new_tensor([tokens])]).unsqueeze(1)
    low = torch.searchsorted(index, starts)
    count = torch.searchsorted(index, ends) - low
    slot = torch.arange(int(count.max()), device=device)
    place = torch.arange(max(clips) * per_frame, device=device)
    supplier = (starts + place).clamp_max(tokens - 1)
    free = torch.ones(tokens, dtype=torch.bool, device=device).index_fill(0, index, False)
    return Clips(
        anchor=index[(low + slot).clamp_max(index.shape[0] - 1)],
        filled=slot < count,
        supplier=supplier,
        supply=(free[supplier] & (starts + place < ends)).float(),
        starts=first,
    )


def clip_plan(cost: torch.Tensor, groups: Clips, config: AOTConfig) -> torch.Tensor:
    """(C, M, K) plan in which every supplier carries mass 1.

    Anchor marginals are uniform_share · M/K + (1 - uniform_share) · (what lies nearest to each anchor). At 0
    the plan has a closed form; else Sinkhorn finds it.
    """
    nearest = soft_nearest(cost, groups.supply, groups.filled, config.epsilon)
    if config.uniform_share == 0:
        return nearest
    each = groups.supply.sum(1, keepdim=True) / groups.filled.sum(1, keepdim=True)
    demand = torch.lerp(nearest.sum(dim=1), each * groups.filled, config.uniform_share)
    return sinkhorn(
        cost,
        groups.supply,
        demand,
        epsilon=config.epsilon,
        iterations=config.iterations,
        stop=_STOP[config.stop],
        tolerance=config.tolerance,
        log_domain=config.epsilon < LOG_DOMAIN_BELOW,
        backend=config.backend,
    )
