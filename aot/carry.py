"""Space-time transport of a clip's other tokens onto its kept ones, all clips at once (default schedule)."""

import torch

from .clips import Clips
from .config import AOTConfig
from .ops import aggregate, nearest_plan, pair_cost, sinkhorn
from .transport import merge
from .video import VideoTokens

FLOAT32_EXPONENT = 80  # exp(-80) is about the least that float32 still tells from 0
_STOP = {"problem": "marginal", "never": "never"}


def clip_cost(video: VideoTokens, clips: Clips, config: AOTConfig) -> torch.Tensor:
    """(C, n, n) float32 cost between all tokens of a clip.

    (1 - cos) + spatial_weight·distance, the sides of a frame being 1, + temporal_weight·frames apart: a token of
    another time says what there is and leaves open whether it still is.
    """
    return pair_cost(
        video.pooled,
        clips.starts,
        clips.longest,
        grid=video.pooled_grid,
        spatial_weight=config.spatial_weight,
        temporal_weight=config.temporal_weight,
        backend=config.backend,
    )


def highest_cost(clips: Clips, config: AOTConfig) -> float:
    """Bound of the costs between two tokens of a clip."""
    return 2 + 2**0.5 * config.spatial_weight + (clips.longest - 1) * config.temporal_weight


def transport_clips(
    video: VideoTokens, cost: torch.Tensor, kept: torch.Tensor, index: torch.Tensor, clips: Clips, config: AOTConfig
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Carries every token that is not kept to the kept ones of its clip.

    cost: (C, n, n) of all pairs of a clip. kept: (C, n) bool, as many per clip as its count. index: (S,) flat indices
    of the same tokens, ascending. Returns tokens (S, D) in the input's dtype, masses (S,) float32 that sum to T·P, and
    a trace.
    """
    first = clips.token[:, :1]
    anchor = torch.where(clips.filled, index[clips.rank], first)  # (C, K)
    supply = (clips.real & ~kept).float()
    plan = clip_plan(cost, anchor - first, supply, clips.filled, config, highest=highest_cost(clips, config))
    received = plan.sum(dim=1).flatten()[clips.place]
    tokens = video.pooled.flatten(0, 1)[index]
    if config.merge_strength > 0 and config.merge_cap > 0:
        carried = aggregate(plan, video.pooled, clips.starts, clips.longest, backend=config.backend)
        carried = carried.flatten(0, 1)[clips.place]
        merged = merge(tokens.float(), carried, received, strength=config.merge_strength, cap=config.merge_cap)
        tokens = merged.to(tokens.dtype)
    trace = {}
    if video.trace:
        trace = {"plan": plan, "cost": _columns(cost, anchor - first), "anchor": anchor, "supplier": clips.token}
    return tokens, 1 + received, trace


def clip_plan(
    cost: torch.Tensor,
    anchor: torch.Tensor,
    supply: torch.Tensor,
    filled: torch.Tensor,
    config: AOTConfig,
    *,
    highest: float,
) -> torch.Tensor:
    """(C, n, K) plan in which every supplier carries its mass.

    cost: (C, n, n), at most `highest`. anchor: (C, K) columns of it. supply: (C, n). filled: (C, K) bool.

    Anchor marginals are uniform_share · M/K + (1 - uniform_share) · (what lies nearest to each anchor). At 0
    the plan has a closed form; else Sinkhorn finds it.
    """
    nearest = nearest_plan(cost, anchor, filled, supply, epsilon=config.epsilon, backend=config.backend)
    if config.uniform_share == 0:
        return nearest
    each = supply.sum(1, keepdim=True) / filled.sum(1, keepdim=True)
    demand = torch.lerp(nearest.sum(dim=1), each * filled, config.uniform_share)
    return sinkhorn(
        _columns(cost, anchor),
        supply,
        demand,
        epsilon=config.epsilon,
        iterations=config.iterations,
        stop=_STOP[config.stop],
        tolerance=config.tolerance,
        log_domain=highest / config.epsilon > FLOAT32_EXPONENT,
        backend=config.backend,
    )


def _columns(cost: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    """(C, n, K) of the costs (C, n, n): to the anchors (C, K) alone."""
    return cost.gather(2, anchor.unsqueeze(1).expand(-1, cost.shape[1], -1))
