"""Costs of token pairs: in features, in places and in time."""

import torch

from .groups import group_frames, inverse_length


def pair_cost(
    tokens: torch.Tensor,
    starts: torch.Tensor,
    length: int,
    anchor: torch.Tensor | None,
    *,
    grid: tuple[int, int],
    spatial_weight: float,
    temporal_weight: float,
) -> torch.Tensor:
    """Costs (G, M, K); arguments as in `aot.ops.pair_cost`. Norms divide products, not tokens."""
    inverse = inverse_length(tokens).unsqueeze(-1)
    left, by = group_frames(tokens, starts, length).float(), group_frames(inverse, starts, length)
    if anchor is None:
        right, by_right = left, by
    else:
        right, by_right = tokens.flatten(0, 1)[anchor].float(), inverse.flatten(0, 1)[anchor]
    cost = torch.bmm(left, right.transpose(1, 2)).mul_(by).mul_(-by_right.transpose(1, 2)).add_(1)
    if spatial_weight > 0 or temporal_weight > 0:
        between = _between(length, grid, spatial_weight, temporal_weight, tokens.device)
        if anchor is None:
            return cost.add_(between)
        # group g begins at token starts[g]·P, so an anchor's row is its index less that
        row = anchor - starts.unsqueeze(1) * tokens.shape[1]
        cost.add_(between[row].transpose(1, 2))
    return cost


def _between(
    length: int, grid: tuple[int, int], spatial_weight: float, temporal_weight: float, device: torch.device
) -> torch.Tensor:
    """(M, M) cost of the places and times of a group's tokens, M = length·P; symmetric."""
    places, frame = grid_distances(grid, device) * spatial_weight, torch.arange(length, device=device)
    times = (frame.unsqueeze(1) - frame).abs() * temporal_weight
    return (times[:, None, :, None] + places[None, :, None, :]).flatten(2).flatten(0, 1)


def grid_distances(grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """(H·W, H·W) float32 distances of tokens whose rows and columns lie in [0, 1]², linspace on both axes."""
    height, width = grid
    rows = torch.linspace(0, 1, height, device=device)
    columns = torch.linspace(0, 1, width, device=device)
    place = torch.cartesian_prod(rows, columns)
    return torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")
