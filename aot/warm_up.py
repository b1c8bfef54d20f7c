"""Compiling the kernels before they are needed."""

import torch

from .clips import default_clip_length
from .compress import compress
from .config import AOTConfig
from .ops import use_triton
from .spatial_pooling import pooled_grid


def warm_up(
    config: AOTConfig,
    *,
    grid: tuple[int, int],
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    pool: str | None = "bilinear",
) -> None:
    """Compiles what the default runs on a GPU, so that no retention or length compiles anything later.

    grid: tower (H, W). width: D. dtype: of the features. Each kernel is compiled once for each power of two of kept
    tokens a clip and each clip length, since a video or a stream may end in a shorter clip; Triton remembers the
    result on disk. Nothing happens where kernels do not run, and for other methods and variants. Raises AOTError for
    backend "triton" where it cannot run.
    """
    probe = torch.empty(0, device=device)
    if config.method != "aot" or config.variant != "default" or not use_triton(config.backend, "warm_up", probe):
        return
    height, columns = pooled_grid(grid, pool)
    usual = config.clip_length or default_clip_length(height * columns)
    for frames in range(1, usual + 1):
        features = torch.zeros(frames, grid[0] * grid[1], width, dtype=dtype, device=device)
        maps = torch.ones(2, frames, features.shape[1], device=device)
        # 16, 32, 64 … of the clip's tokens, and all but one
        tokens = frames * height * columns
        powers = [2**power for power in range(4, tokens.bit_length()) if 2**power < tokens - 1]
        for kept in (*powers, *([tokens - 1] if tokens > 1 else [])):
            settings = {"pool": pool, "grid": grid, "clips": [frames]}
            # as a video begins, and as it goes on
            share = config.replace(retention=(kept + 0.5) / tokens, max_tokens=None)
            compress(features, *maps, share, **settings)
            compress(features, *maps, share, before=features[:1], **settings)
