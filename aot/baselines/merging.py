"""What kept tokens gather from the tokens that are merged into them."""

import torch


def gather_members(
    points: torch.Tensor, target: torch.Tensor, index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (S, D) and counts (S,), float32, of the points that go to each kept one, its own included.

    points: (N, D). target: (N,) int64, which point each one goes to, N when it is dropped. index: (S,) int64 kept
    points, all different.
    """
    total, kept = points.shape[0], index.shape[0]
    slot = torch.full((total + 1,), kept, device=index.device)
    slot = slot.index_copy_(0, index, torch.arange(kept, device=index.device))[target]
    sums = torch.zeros(kept + 1, points.shape[-1], device=points.device).index_add_(0, slot, points.float())
    counts = torch.zeros(kept + 1, device=points.device).index_add_(0, slot, torch.ones(total, device=points.device))
    return sums[:kept], counts[:kept]


def others_mean(own: torch.Tensor, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(S, D) mean of a kept point's members without itself, 0 when there are none.

    own: (S, D) float32. sums, counts: of `gather_members`.
    """
    others = (counts - 1).unsqueeze(-1)
    return torch.where(others > 0, (sums - own) / others.clamp_min(1), 0)


def anchored_mean(
    own: torch.Tensor, sums: torch.Tensor, counts: torch.Tensor, weight: float | torch.Tensor
) -> torch.Tensor:
    """weight·own + (1 - weight)·(mean of the other members); a point without others stays as it is.

    weight: a number or (S,) in [0, 1]. Other arguments as in `others_mean`.
    """
    weight = torch.where(counts > 1, weight, 1.0).unsqueeze(-1)
    return torch.lerp(others_mean(own, sums, counts), own, weight)
