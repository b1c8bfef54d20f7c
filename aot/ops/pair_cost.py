"""Transport costs of token pairs: in features, in places and in time."""

import torch

from .common import group_frames, inverse_length, use_triton


@torch.no_grad()
def pair_cost(
    tokens: torch.Tensor,
    starts: torch.Tensor,
    length: int,
    anchor: torch.Tensor | None = None,
    *,
    grid: tuple[int, int],
    spatial_weight: float,
    temporal_weight: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Costs C_ij = (1 - cos) + spatial_weight·‖p_i - p_j‖ + temporal_weight·|t_i - t_j|, (G, M, K) float32.

    tokens: (T, P, D) of any float dtype and length; no normalised or gathered copy is written. Group g pairs
    all M = length·P tokens of the frames from starts[g] on with the tokens anchor[g]. starts: (G,) int64,
    consecutive groups that cover the video; what lies beyond its end repeats the last frame. anchor: (G, K)
    flat indices t·P + place of tokens of the group; None pairs all tokens of a group with each other, K = M.
    grid: (H, W) of a frame, whose sides span [0, 1]. t counts frames.
    """
    weights = {"spatial_weight": spatial_weight, "temporal_weight": temporal_weight}
    if use_triton(backend, "pair_cost", tokens, starts, *([] if anchor is None else [anchor])):
        from .triton.pair_cost import pair_cost as kernel

        return kernel(tokens, starts, length, anchor, grid=grid, **weights)
    # features: lengths divide products, not tokens
    inverse = inverse_length(tokens).unsqueeze(-1)
    left, left_inverse = group_frames(tokens, starts, length).float(), group_frames(inverse, starts, length)
    if anchor is None:
        right, right_inverse = left, left_inverse
    else:
        right, right_inverse = tokens.flatten(0, 1)[anchor].float(), inverse.flatten(0, 1)[anchor]
    cost = torch.bmm(left, right.transpose(1, 2)).mul_(left_inverse).mul_(-right_inverse.transpose(1, 2)).add_(1)
    if spatial_weight == 0 and temporal_weight == 0:
        return cost
    # places and times: (M, M), the same for every group
    frame = torch.arange(length, device=tokens.device)
    times = (frame.unsqueeze(1) - frame).abs().float() * temporal_weight
    places = grid_distances(grid, tokens.device) * spatial_weight
    apart = (times[:, None, :, None] + places[None, :, None, :]).flatten(2).flatten(0, 1)
    if anchor is None:
        return cost.add_(apart)
    row = anchor - starts.unsqueeze(1) * tokens.shape[1]  # group g begins at token starts[g]·P
    return cost.add_(apart[row].transpose(1, 2))


def grid_distances(grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """(H·W, H·W) float32 distances of tokens whose rows and columns lie in [0, 1]², linspace on both axes."""
    height, width = grid
    rows = torch.linspace(0, 1, height, dtype=torch.float32, device=device)
    columns = torch.linspace(0, 1, width, dtype=torch.float32, device=device)
    place = torch.cartesian_prod(rows, columns)
    return torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")
