"""Entropic optimal transport of the tokens that are not kept onto those that are (section 3.2)."""

import torch

from .config import AOTConfig
from .ops import aggregate, pair_cost, sinkhorn
from .scores import relative, unit


def merge(
    kept: torch.Tensor, carried: torch.Tensor, mass: torch.Tensor, *, strength: float, cap: float
) -> torch.Tensor:
    """Kept tokens moved towards what was transported to them: (a + λ·carried)/(1 + λ·mass).

    kept: (..., D). carried: (..., D) = Σ_i T_ij u_i. mass: (...,) = Σ_i T_ij. strength is λ. The share
    λ·mass/(1 + λ·mass) taken from others is bounded by cap, which keeps a kept token recognisable.
    """
    share = strength * mass / (1 + strength * mass)
    share = share.clamp_max(cap).unsqueeze(-1)
    mean = carried / mass.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)
    return kept + share * (mean - kept)


def intra_frame(
    features: torch.Tensor,
    anchor: torch.Tensor,
    grid: tuple[int, int],
    config: AOTConfig,
    importance: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merged anchors of every frame (section 3.2): each frame's other tokens transported onto its anchors.

    features: (T, N, D). anchor: (T, K) indices of the anchors, ascending. importance: (T, N), read by supplier_mass
    "attention". Returns merged anchors (T, K, D) float32 and plans (T, N, K), whose rows are 0 for the anchors
    themselves. Marginals: 1/M and 1/K when supplier_mass is "normalised", 1 and M/K when it is "unit"; "attention"
    shares the M of "unit" by importance.
    """
    frames, tokens, width = features.shape
    count = anchor.shape[1]
    kept = features.gather(1, anchor.unsqueeze(-1).expand(-1, -1, width)).float()
    supply = torch.ones(frames, tokens, device=features.device).scatter_(1, anchor, 0.0)
    each = torch.arange(frames, device=features.device)
    flat = anchor + each.unsqueeze(1) * tokens
    cost = pair_cost(features, each, 1, flat, grid=grid, spatial_weight=config.spatial_weight, backend=config.backend)
    free = max(1, tokens - count)
    if config.supplier_mass == "attention":
        supply = supply * relative(importance.float() * supply)
        supply = supply * (free / supply.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny))
    scale = 1 / free if config.supplier_mass == "normalised" else 1.0
    plan = sinkhorn(
        cost,
        supply * scale,
        torch.full((frames, count), (tokens - count) * scale / count, device=features.device),
        epsilon=config.epsilon,
        iterations=config.iterations,
        stop=_STOP_INTRA[config.stop],
        tolerance=config.tolerance,
        backend=config.backend,
    )
    carried = aggregate(plan, features, each, 1, backend=config.backend)
    merged = merge(kept, carried, plan.sum(1), strength=config.merge_strength, cap=config.merge_cap)
    if config.hard_blend > 0:
        cosine = torch.bmm(unit(features), unit(kept).transpose(1, 2))
        best = cosine.argmax(-1, keepdim=True) == torch.arange(count, device=features.device)
        nearest = best * supply.unsqueeze(-1)
        total = kept + aggregate(nearest, features, each, 1, backend=config.backend)
        merged = merged.lerp(total / (1 + nearest.sum(1)).unsqueeze(-1), config.hard_blend)
    return merged, plan


_STOP_INTRA = {"problem": "marginal", "batch": "change_batch", "never": "never"}
