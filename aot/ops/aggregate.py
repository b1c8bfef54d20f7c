"""What plans carry, and how it moves the kept tokens: the merge of the paper's section 3.2."""

import torch

from .common import at_least_float32, group_frames, use_triton


def aggregate(
    plan: torch.Tensor, tokens: torch.Tensor, starts: torch.Tensor, length: int, *, backend: str = "auto"
) -> torch.Tensor:
    """What plans (G, M, K) carry to each anchor, Σ_m plan[g, m, k]·token_m: (G, K, D) float32.

    tokens, starts, length: as in `pair_cost`.
    """
    if use_triton(backend, "aggregate", plan, tokens, starts):
        from .triton.aggregate import aggregate as kernel

        return kernel(plan, tokens, starts, length)
    grouped = at_least_float32(group_frames(tokens, starts, length))
    return torch.bmm(plan.transpose(1, 2).to(grouped.dtype), grouped)


def merge(
    kept: torch.Tensor, carried: torch.Tensor, mass: torch.Tensor, *, strength: float, cap: float
) -> torch.Tensor:
    """Kept tokens moved towards what was transported to them: (a + λ·carried) / (1 + λ·mass).

    kept: (..., D). carried: (..., D) float32 = Σ_i T_ij u_i. mass: (...,) = Σ_i T_ij. strength is λ. The share
    λ·mass / (1 + λ·mass) taken from others is at most `cap`, which keeps a kept token recognisable.
    """
    share = strength * mass / (1 + strength * mass)
    share = share.clamp_max(cap).unsqueeze(-1)
    mean = carried / mass.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)
    return kept + share * (mean - kept)
