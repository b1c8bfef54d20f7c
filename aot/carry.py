"""Space-time transport of a clip's other tokens onto its kept ones, all clips at once (default schedule)."""

from dataclasses import dataclass

import torch

from .anchors import true_indices
from .config import AOTConfig
from .ops import sinkhorn
from .temporal import clip_starts
from .transport import grid_distances, merge, soft_nearest
from .video import VideoTokens

# costs reach 2 plus the weights; exp(-3.2 / 0.04) is the least that float32 still tells from 0
LOG_DOMAIN_BELOW = 0.04
_STOP = {"problem": "marginal", "never": "never"}


@dataclass(frozen=True)
class Clips:
    """Kept tokens and suppliers of C clips, padded to the K kept of the fullest and M of the longest.

    anchor: (C, K) and supplier: (C, M) flat token indices. filled: (C, K) bool. supply: (C, M) float32, 1 for
    tokens that are not kept, 0 for kept ones and padding. even: all clips are equally long.
    """

    anchor: torch.Tensor
    filled: torch.Tensor
    supplier: torch.Tensor
    supply: torch.Tensor
    even: bool

    def suppliers(self, flat: torch.Tensor) -> torch.Tensor:
        """(C, M, D) rows of flat (T·P, D); a view when the clips are equally long."""
        return flat.view(len(self.anchor), -1, flat.shape[-1]) if self.even else flat[self.supplier]


def transport_clips(
    video: VideoTokens, units: torch.Tensor, index: torch.Tensor, clips: list[int], config: AOTConfig
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Carries every token that is not kept to the kept ones of its clip.

    units: (T, P, D) of length 1. index: (S,) kept flat indices, ascending, at least one per clip. Returns
    tokens (S, D) in the input's dtype, masses (S,) float32 that sum to T·P, and a trace.
    """
    groups = group_clips(index, clips, video.tokens_per_frame)
    cost = spacetime_cost(units.flatten(0, 1), groups, video, max(clips), config)
    plan = clip_plan(cost, groups, config)
    slots = true_indices(groups.filled.flatten(), index.shape[0])
    mass = 1 + plan.sum(dim=1).flatten()[slots]
    flat = video.pooled.flatten(0, 1)
    tokens = flat[index]
    if config.merge_strength > 0 and config.merge_cap > 0:
        near = plan if config.merge_reach is None else plan * (cost <= config.merge_reach)
        carried = torch.bmm(near.transpose(1, 2), groups.suppliers(flat).float()).flatten(0, 1)[slots]
        received = near.sum(dim=1).flatten()[slots]
        merged = merge(tokens.float(), carried, received, strength=config.merge_strength, cap=config.merge_cap)
        tokens = merged.to(tokens.dtype)
    trace = {"plan": plan, "cost": cost, "anchor": groups.anchor, "supplier": groups.supplier}
    return tokens, mass, trace if video.trace else {}


def group_clips(index: torch.Tensor, clips: list[int], per_frame: int) -> Clips:
    """Sorts kept tokens (S,) and all others by clip; waits once for the device (the fullest clip)."""
    device = index.device
    tokens = sum(clips) * per_frame
    starts = clip_starts(clips, device).unsqueeze(1) * per_frame
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
        even=len(clips) * max(clips) == sum(clips),
    )


def spacetime_cost(
    units: torch.Tensor, groups: Clips, video: VideoTokens, longest: int, config: AOTConfig
) -> torch.Tensor:
    """(C, M, K) float32: (1 - cos) + spatial_weight·distance + temporal_weight·|Δt| / longest clip.

    units: (T·P, D) of length 1.
    """
    cost = torch.bmm(groups.suppliers(units), units[groups.anchor].transpose(1, 2)).neg_().add_(1)
    per_frame = video.tokens_per_frame
    if config.spatial_weight > 0:
        between = grid_distances(video.pooled_grid, units.device) * config.spatial_weight
        cost += between[(groups.supplier % per_frame).unsqueeze(2), (groups.anchor % per_frame).unsqueeze(1)]
    if config.temporal_weight > 0:
        time = groups.supplier // per_frame
        apart = (time.unsqueeze(2) - (groups.anchor // per_frame).unsqueeze(1)).abs()
        cost += apart * (config.temporal_weight / longest)
    return cost


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
