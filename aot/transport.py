"""Entropic optimal transport of the tokens that are not kept onto those that are (section 3.2)."""

import torch

from .config import AOTConfig
from .ops import sinkhorn
from .scores import unit


def grid_distances(grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """(H·W, H·W) float32 distances of tokens whose rows and columns lie in [0, 1]², linspace on both axes."""
    height, width = grid
    rows = torch.linspace(0, 1, height, device=device)
    columns = torch.linspace(0, 1, width, device=device)
    place = torch.cartesian_prod(rows, columns)
    return torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")


def soft_nearest(cost: torch.Tensor, supply: torch.Tensor, anchors: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Plan with free anchor marginals: each supplier's mass spread by softmax(-cost/ε) over the anchors.

    cost: (B, M, K) float32. supply: (B, M) mass of each supplier. anchors: (B, K) bool, False for padding.
    Returns (B, M, K); its rows sum to the supply. It is the entropic plan for the column sums it has.
    """
    logits = (cost / -epsilon).masked_fill(~anchors.unsqueeze(1), -torch.inf)
    return logits.softmax(dim=-1) * supply.unsqueeze(-1)


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merged anchors of every frame (section 3.2): each frame's other tokens transported onto its anchors.

    features: (T, N, D). anchor: (T, K) indices of the anchors, ascending. Returns merged anchors (T, K, D)
    float32 and plans (T, N, K), whose rows are 0 for the anchors themselves. Uniform marginals: 1/M and 1/K
    when supplier_mass is "normalised", 1 and M/K when it is "unit".
    """
    frames, tokens, width = features.shape
    count = anchor.shape[1]
    features = features.float()
    kept = features.gather(1, anchor.unsqueeze(-1).expand(-1, -1, width))
    cosine = torch.bmm(unit(features), unit(kept).transpose(1, 2))
    supply = torch.ones(frames, tokens, device=features.device).scatter_(1, anchor, 0.0)
    cost = 1 - cosine
    if config.spatial_weight > 0:
        cost += config.spatial_weight * grid_distances(grid, features.device)[anchor].transpose(1, 2)
    free = max(1, tokens - count)
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
    carried = torch.bmm(plan.transpose(1, 2), features)
    merged = merge(kept, carried, plan.sum(1), strength=config.merge_strength, cap=config.merge_cap)
    if config.hard_blend > 0:
        best = cosine.argmax(-1, keepdim=True) == torch.arange(count, device=features.device)
        nearest = best * supply.unsqueeze(-1)
        total = kept + torch.bmm(nearest.transpose(1, 2), features)
        merged = merged.lerp(total / (1 + nearest.sum(1)).unsqueeze(-1), config.hard_blend)
    return merged, plan


_STOP_INTRA = {"problem": "marginal", "batch": "change_batch", "never": "never"}
