"""The input of a method: a video's tokens, checked, with the pooled grid computed once."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import index
from typing import Any

import torch

from .checks import count
from .errors import AOTError
from .pooling import pool_map, pool_tokens, pooled_grid
from .values import importance_in_range, read_at_once, refuse, tokens_in_range

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# tower outputs with a shape of their own; others may be (T, N) or (T, N, K)
EXTRA_AXES = {"attention_last": (2,), "keys": (3,)}


@dataclass(frozen=True)
class VideoTokens:
    """Tokens of one video between projector and language model.

    Read `pooled`, `tower`, the importance maps and `pooled_extra`: their values were checked (see `values`). What a
    device holds is checked there, without waiting: places that cannot be used are 0, and `usable` has their masks.
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
    usable: dict[str, torch.Tensor] = field(default_factory=dict, init=False)

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
    def tower(self) -> torch.Tensor:
        """(T, N, D) the features, before pooling."""
        return self._checked(("features",), self.features.contiguous(), tokens_in_range)

    @cached_property
    def pooled(self) -> torch.Tensor:
        """(T, P, D) pooled tokens in the input's dtype: what the model reads without compression.

        From a contiguous copy of other layouts: rounding, and so the choice among equals, follows the layout.
        """
        # what is wrong with a token is wrong with every pooled token that it is part of
        pooled = pool_tokens(self.features.contiguous(), self.grid, self.pool)
        return self._checked(("features",), pooled, tokens_in_range)

    @cached_property
    def pooled_before(self) -> torch.Tensor | None:
        """(1, P, D) pooled tokens of the frame before the first one, or None."""
        if self.before is None:
            return None
        pooled = pool_tokens(self.before, self.grid, self.pool)
        return self._checked(("before",), pooled, tokens_in_range)

    @cached_property
    def shallow_importance(self) -> torch.Tensor:
        """(T, N) float32 importance of the shallow layer."""
        return self._importance("shallow", _present(self.shallow, "shallow"))

    @cached_property
    def deep_importance(self) -> torch.Tensor:
        """(T, N) float32 importance of the deep layer."""
        return self._importance("deep", _present(self.deep, "deep"))

    @cached_property
    def pooled_shallow(self) -> torch.Tensor:
        """(T, P) float32 pooled importance of the shallow layer."""
        return pool_map(self.shallow_importance, self.grid, self.pool)

    @cached_property
    def pooled_deep(self) -> torch.Tensor:
        """(T, P) float32 pooled importance of the deep layer."""
        return pool_map(self.deep_importance, self.grid, self.pool)

    @cached_property
    def pooled_importance(self) -> torch.Tensor:
        """(2, T, P) float32 pooled importance of the shallow and of the deep layer, in as few operations as one."""
        maps = [_present(self.shallow, "shallow").float(), _present(self.deep, "deep").float()]
        both = self._checked(("shallow", "deep"), torch.stack(maps), importance_in_range)
        return pool_map(both.flatten(0, 1), self.grid, self.pool).unflatten(0, (2, -1))

    def pooled_extra(self, name: str) -> torch.Tensor:
        """A tower output of `extras`, (T, N) or (T, N, K), pooled like the tokens: float32 (T, P) or (T, P, K).

        "attention_last" is an importance, 0 or more; other maps may hold any number.
        """
        values = self.extras[name]
        if name == "attention_last":
            return pool_map(self._importance(name, values), self.grid, self.pool)
        vectors = values.float().reshape(*values.shape[:2], -1)
        pooled = pool_tokens(self._checked((name,), vectors, tokens_in_range), self.grid, self.pool)
        return pooled if values.dim() == 3 else pooled.squeeze(-1)

    def span(self, first: int, last: int) -> "VideoTokens":
        """Frames first to last - 1 as a video of their own, without extras, which knows the frame before it."""
        cut = slice(first, last)
        return replace(
            self,
            features=self.features[cut],
            shallow=None if self.shallow is None else self.shallow[cut],
            deep=None if self.deep is None else self.deep[cut],
            extras={},
            before=self.features[first - 1 : first] if first else self.before,
            clips=None,
        )

    def _importance(self, name: str, values: torch.Tensor) -> torch.Tensor:
        return self._checked((name,), values.float(), importance_in_range)

    def _checked(
        self, names: tuple[str, ...], values: torch.Tensor, in_range: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """The values; those out of range are refused, or 0 on a device. names: one, or one each on the first axis."""
        usable = in_range(values)
        masks = dict(zip(names, usable.unbind(0) if len(names) > 1 else (usable,), strict=True))
        if read_at_once(values):
            for name, mask in masks.items():
                refuse(name, mask)
            return values
        self.usable.update(masks)
        return torch.where(usable if values.dim() == usable.dim() else usable.unsqueeze(-1), values, 0.0)


def check_grid(tokens: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """The tower grid (H, W) of `tokens` tokens; None means square. AOTError when it does not fit."""
    if grid is None:
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise AOTError(f"{tokens} tokens per frame do not form a square; give grid=(height, width).")
        return side, side
    if not isinstance(grid, Sequence) or isinstance(grid, str) or len(grid) != 2:
        raise AOTError(f"grid is {grid!r}; give (height, width) of the tower.")
    height, width = (count("a side of the grid", side, 1) for side in grid)
    if height * width != tokens:
        raise AOTError(f"Grid {height}x{width} does not fit {tokens} tokens per frame; give the tower's.")
    return height, width


def check_clips(clips: Sequence[int] | None, frames: int) -> list[int] | None:
    """Clip lengths as ints; AOTError unless they are positive and sum to the number of frames."""
    if clips is None:
        return None
    try:
        lengths = [index(length) for length in clips]
    except TypeError:
        raise AOTError(f"clips is {clips!r}; give whole numbers of frames that add up to {frames}.") from None
    if not lengths or min(lengths) < 1 or sum(lengths) != frames:
        raise AOTError(f"Clip lengths {lengths} do not add up to {frames} frames; give positive ones that do.")
    return lengths


def check_video(video: VideoTokens, needs: tuple[str, ...]) -> None:
    """AOTError when shapes, dtypes or devices of the inputs do not fit together or a needed one is missing."""
    frames, tokens, width = video.features.shape
    if frames < 1 or tokens < 1 or width < 1:
        raise AOTError(f"features are empty, {tuple(video.features.shape)}; give at least one frame.")
    if video.features.dtype not in DTYPES or video.features.layout != torch.strided:
        kind = f"{video.features.dtype} of layout {video.features.layout}"
        raise AOTError(f"features are {kind}; use a dense floating tensor of float32, float16 or bfloat16.")
    for name in ("shallow", "deep"):
        values = getattr(video, name)
        if values is None and name in needs:
            _present(None, name)
        if values is not None:
            _check_map(name, values, video.features, (2,))
    missing = [name for name in needs if name not in ("shallow", "deep") and name not in video.extras]
    if missing:
        raise AOTError(f"This method needs {', '.join(missing)} of the tower; pass extras={{name: tensor}}.")
    for name in needs:
        if name in video.extras:
            _check_map(name, video.extras[name], video.features, EXTRA_AXES.get(name, (2, 3)))
    if video.before is not None:
        _check_tensor("before", video.before, video.features)
        if video.before.shape != (1, tokens, width) or video.before.dtype != video.features.dtype:
            found = f"{tuple(video.before.shape)} of {video.before.dtype}"
            raise AOTError(f"before is {found}; it must be one frame, {(1, tokens, width)} of {video.features.dtype}.")
    if video.newline is not None:
        if not isinstance(video.newline, torch.Tensor) or video.newline.shape != (width,):
            shape = tuple(getattr(video.newline, "shape", ()))
            raise AOTError(f"newline is {shape or type(video.newline).__name__}; it must be (D,) = ({width},).")
        if read_at_once(video.newline) and not video.newline.to(video.features.dtype).isfinite().all():
            raise AOTError(f"newline holds NaN, Inf or what {video.features.dtype} cannot hold; give the model's own.")


def _check_tensor(name: str, values: Any, features: torch.Tensor) -> None:
    if not isinstance(values, torch.Tensor) or values.layout != torch.strided or values.is_complex():
        raise AOTError(f"{name} is a {_kind(values)}; give a dense tensor of real numbers.")
    if values.device != features.device:
        raise AOTError(f"{name} is on {values.device} and the features on {features.device}; move one of them.")


def _check_map(name: str, values: Any, features: torch.Tensor, axes: tuple[int, ...]) -> None:
    """A tower output (T, N) or (T, N, K), as `axes` say."""
    _check_tensor(name, values, features)
    frames, tokens, _ = features.shape
    if values.dim() not in axes or values.shape[:2] != (frames, tokens) or values.numel() == 0:
        wanted = " or ".join("(T, N)" if axis == 2 else "(T, N, K)" for axis in axes)
        raise AOTError(f"{name} is {tuple(values.shape)}; it must be {wanted}, T = {frames} and N = {tokens}.")


def _kind(values: Any) -> str:
    return f"{values.dtype} tensor" if isinstance(values, torch.Tensor) else type(values).__name__


def _present(values: torch.Tensor | None, name: str) -> torch.Tensor:
    if values is None:
        raise AOTError(f"This method needs the received attention of the {name} layer; pass {name}=(T, N).")
    return values
