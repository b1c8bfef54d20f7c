"""The host model's 2x spatial pooling, on token grids."""

import math

import torch
import torch.nn.functional as F

from .errors import AOTError

POOLS = ("bilinear", "average", "max", None)


def pooled_grid(grid: tuple[int, int], pool: str | None) -> tuple[int, int]:
    """Grid (H, W) after pooling: ceil(H/2) for bilinear, floor for average and max, unchanged for None."""
    if pool not in POOLS:
        raise AOTError(f"Unknown pooling {pool!r}; use 'bilinear', 'average', 'max' or None.")
    height, width = grid
    if pool is None:
        return height, width
    if pool == "bilinear":
        return math.ceil(height / 2), math.ceil(width / 2)
    if height < 2 or width < 2:
        raise AOTError(f"A {height}x{width} grid is too small for {pool} pooling; give at least 2x2 tokens.")
    return height // 2, width // 2


def pool_tokens(features: torch.Tensor, grid: tuple[int, int], pool: str | None) -> torch.Tensor:
    """Pools tokens (T, H*W, D) to (T, P, D), or maps (T, H*W) to (T, P), as LLaVA-NeXT does.

    Stride 2, bilinear without aligned corners. The (T, D, H, W) view keeps the channels innermost in memory: no copy of
    the big tensor is made, and the numbers are bit-equal to those of a contiguous copy.
    """
    height, width = pooled_grid(grid, pool)
    if pool is None:
        return features
    maps = features.unflatten(1, grid)
    maps = maps.unsqueeze(1) if features.dim() == 2 else maps.permute(0, 3, 1, 2)
    if pool == "bilinear":
        maps = F.interpolate(maps, size=(height, width), mode="bilinear")
    elif pool == "average":
        maps = F.avg_pool2d(maps, 2)
    else:
        maps = F.max_pool2d(maps, 2)
    return maps.flatten(1) if features.dim() == 2 else maps.permute(0, 2, 3, 1).flatten(1, 2)
