"""The host model's spatial pooling, on token grids."""

import math

import torch
import torch.nn.functional as F

from .errors import AOTError

POOLS = ("bilinear", "average", "max", None)


def pooled_grid(grid: tuple[int, int], pool: str | None) -> tuple[int, int]:
    """Grid (H, W) after pooling by s = 2: ceil(H/s) for bilinear, floor for average and max, unchanged for None.

    Another stride stands behind the name, as in "average/4".
    """
    mode, stride = _mode_and_stride(pool)
    height, width = grid
    if mode is None:
        return height, width
    if mode == "bilinear":
        return math.ceil(height / stride), math.ceil(width / stride)
    if height < stride or width < stride:
        raise AOTError(
            f"A {height}x{width} grid is too small for {pool} pooling; give at least {stride}x{stride} tokens."
        )
    return height // stride, width // stride


def _mode_and_stride(pool: str | None) -> tuple[str | None, int]:
    mode, _, stride = (None, "", "") if pool is None else str(pool).partition("/")
    if mode not in POOLS or (stride and not (stride.isdecimal() and int(stride))):
        raise AOTError(f"Unknown pooling {pool!r}; use 'bilinear', 'average', 'max' or None.")
    return mode, int(stride or 2)


def pool_tokens(features: torch.Tensor, grid: tuple[int, int], pool: str | None) -> torch.Tensor:
    """Pools tokens (T, H*W, D) to (T, P, D), or maps (T, H*W) to (T, P), as LLaVA-NeXT does.

    pool: as in `pooled_grid`; bilinear without aligned corners. The (T, D, H, W) view keeps the channels innermost in
    memory: no copy of the big tensor is made, and the numbers are bit-equal to those of a contiguous copy.
    """
    height, width = pooled_grid(grid, pool)
    mode, stride = _mode_and_stride(pool)
    if mode is None:
        return features
    maps = features.unflatten(1, grid)
    maps = maps.unsqueeze(1) if features.dim() == 2 else maps.permute(0, 3, 1, 2)
    if mode == "bilinear":
        maps = F.interpolate(maps, size=(height, width), mode="bilinear")
    elif mode == "average":
        maps = F.avg_pool2d(maps, stride)
    else:
        maps = F.max_pool2d(maps, stride)
    return maps.flatten(1) if features.dim() == 2 else maps.permute(0, 2, 3, 1).flatten(1, 2)
