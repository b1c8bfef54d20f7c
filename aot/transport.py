"""Entropic optimal transport of the tokens that are not kept onto those that are (section 3.2)."""

import torch


def grid_positions(grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """(H·W, 2) row and column of each token in [0, 1]², linspace(0, 1) on both axes."""
    height, width = grid
    rows = torch.linspace(0, 1, height, device=device)
    columns = torch.linspace(0, 1, width, device=device)
    return torch.cartesian_prod(rows, columns)


def soft_nearest(
    cost: torch.Tensor, supply: torch.Tensor, anchors: torch.Tensor, epsilon: float
) -> torch.Tensor:
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
