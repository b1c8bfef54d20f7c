"""The input of a method: a video's tokens, checked, with the pooled grid computed once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from .errors import AOTError
from .pooling import pool_map, pool_tokens, pooled_grid


@dataclass(frozen=True)
class VideoTokens:
    """Tokens of one video between projector and language model.

    features: (T, N, D) after the projector. shallow, deep: (T, N) received attention, or None.
    grid: tower (H, W), H·W = N. pool: the host model's pooling. clips: clip lengths given by the caller.
    newline: (D,) or None, with the host's newline_position. extras: further tower outputs by name.
    before: (1, N, D), the frame that came before the first one here, or None at the start of a video.
    """

    features: torch.Tensor
    shallow: torch.Tensor | None
    deep: torch.Tensor | None
    grid: tuple[int, int]
    pool: str | None
    clips: list[int] | None = None
    newline: torch.Tensor | None = None
    newline_position: str = "grid"
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)
    before: torch.Tensor | None = None
    trace: bool = False

    @cached_property
    def pooled_grid(self) -> tuple[int, int]:
        """(H, W) after pooling."""
        return pooled_grid(self.grid, self.pool)

    @property
    def frames(self) -> int:
        """T."""
        return self.features.shape[0]

    @property
    def tokens_per_frame(self) -> int:
        """P, pooled tokens of a frame."""
        return self.pooled_grid[0] * self.pooled_grid[1]

    @cached_property
    def pooled(self) -> torch.Tensor:
        """(T, P, D) pooled tokens in the input's dtype: what the model reads without compression."""
        return pool_tokens(self.features, self.grid, self.pool)

    @cached_property
    def pooled_shallow(self) -> torch.Tensor:
        """(T, P) float32 pooled importance of the shallow layer."""
        return pool_map(_present(self.shallow, "shallow").float(), self.grid, self.pool)

    @cached_property
    def pooled_deep(self) -> torch.Tensor:
        """(T, P) float32 pooled importance of the deep layer."""
        return pool_map(_present(self.deep, "deep").float(), self.grid, self.pool)

    def pooled_extra(self, name: str) -> torch.Tensor:
        """A tower output of `extras`, (T, N) or (T, N, K), pooled like the tokens: float32 (T, P) or (T, P, K).

        AOTError when its shape does not fit the features.
        """
        values = self.extras[name].float()
        if values.dim() not in (2, 3) or values.shape[:2] != self.features.shape[:2]:
            wanted = tuple(self.features.shape[:2])
            raise AOTError(f"{name} is {tuple(values.shape)}; it must be (T, N) = {wanted}, or (T, N, K).")
        return (pool_map if values.dim() == 2 else pool_tokens)(values, self.grid, self.pool)


def check_grid(tokens: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """The tower grid (H, W) of `tokens` tokens; None means square. AOTError when it does not fit."""
    if grid is None:
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise AOTError(f"{tokens} tokens per frame do not form a square; give grid=(height, width).")
        return side, side
    height, width = (int(side) for side in grid)
    if height < 1 or width < 1 or height * width != tokens:
        raise AOTError(f"Grid {height}x{width} does not fit {tokens} tokens per frame; give the tower's.")
    return height, width


def check_clips(clips: Sequence[int] | None, frames: int) -> list[int] | None:
    """Clip lengths as ints; AOTError unless they are positive and sum to the number of frames."""
    if clips is None:
        return None
    lengths = [int(length) for length in clips]
    if not lengths or min(lengths) < 1 or sum(lengths) != frames:
        raise AOTError(f"Clip lengths {lengths} do not add up to {frames} frames; give positive ones that do.")
    return lengths


def check_video(video: VideoTokens, needs: tuple[str, ...]) -> None:
    """AOTError when shapes or dtypes of the inputs do not fit together or a needed one is missing."""
    frames, tokens, width = video.features.shape
    if frames < 1 or tokens < 1 or width < 1:
        raise AOTError(f"features are empty, {tuple(video.features.shape)}; give at least one frame.")
    if not video.features.is_floating_point():
        raise AOTError(f"features are {video.features.dtype}; use a floating dtype.")
    for name in ("shallow", "deep"):
        values = getattr(video, name)
        if values is None:
            if name in needs:
                _present(None, name)
        elif values.shape != (frames, tokens):
            raise AOTError(f"{name} is {tuple(values.shape)}; it must be (T, N) = {(frames, tokens)}.")
    missing = [name for name in needs if name not in ("shallow", "deep") and name not in video.extras]
    if missing:
        raise AOTError(f"This method needs {', '.join(missing)} of the tower; pass extras={{name: tensor}}.")
    if video.before is not None and video.before.shape != (1, tokens, width):
        raise AOTError(f"before is {tuple(video.before.shape)}; it must be one frame, {(1, tokens, width)}.")
    if video.newline is not None and video.newline.shape != (width,):
        raise AOTError(f"newline is {tuple(video.newline.shape)}; it must be (D,) = ({width},).")


def _present(values: torch.Tensor | None, name: str) -> torch.Tensor:
    if values is None:
        raise AOTError(f"This method needs the received attention of the {name} layer; pass {name}=(T, N).")
    return values
