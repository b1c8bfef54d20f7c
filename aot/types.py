"""What a method reads and returns, and what `compress` returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Any

import torch

from . import validation
from .config import AOTConfig
from .deprecated import old_names
from .errors import AOTError
from .spatial_pooling import pool_tokens, pooled_grid


@dataclass(frozen=True)
class VideoTokens:
    """Tokens of one video between projector and language model.

    Read `pooled`, `tower`, the importance maps and `pooled_extra`: their values were checked. What a device holds is
    checked there, without waiting: places that cannot be used are 0, and `usable` has their masks.

    features: (T, N, D) after the projector
    shallow, deep: (T, N) received attention, or None
    grid: tower (H, W), H·W = N
    pool: the host model's pooling
    clips: clip lengths given by the caller, frames
    newline: (D,) or None, with the host's newline_position
    extras: further tower outputs by name
    before: (1, N, D), the frame that came before the first one here, or None at the start of a video
    first_frame: the number of the first frame here in the video that this is a part of
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
    first_frame: int = 0
    usable: dict[str, torch.Tensor] = field(default_factory=dict, init=False)
    frames: int = field(init=False)  # T
    pooled_grid: tuple[int, int] = field(init=False)  # (H, W) after pooling
    tokens_per_frame: int = field(init=False)  # P, pooled tokens of a frame

    def __post_init__(self) -> None:
        height, width = pooled_grid(self.grid, self.pool)
        object.__setattr__(self, "frames", self.features.shape[0])
        object.__setattr__(self, "pooled_grid", (height, width))
        object.__setattr__(self, "tokens_per_frame", height * width)

    @cached_property
    def tower(self) -> torch.Tensor:
        """(T, N, D) the features, before pooling."""
        return self._checked(self.features.contiguous(), "features")

    @cached_property
    def pooled(self) -> torch.Tensor:
        """(T, P, D) pooled tokens in the input's dtype: what the model reads without compression.

        From a contiguous copy of other layouts: rounding, and so the choice among equals, follows the layout.
        """
        # what is wrong with a token is wrong with every pooled token that it is part of
        pooled = pool_tokens(self.features.contiguous(), self.grid, self.pool)
        return self._checked(pooled, "features")

    @cached_property
    def pooled_before(self) -> torch.Tensor | None:
        """(1, P, D) pooled tokens of the frame before the first one, or None."""
        if self.before is None:
            return None
        return self._checked(pool_tokens(self.before, self.grid, self.pool), "before")

    @cached_property
    def shallow_importance(self) -> torch.Tensor:
        """(T, N) float32 importance of the shallow layer."""
        return self._received("shallow")

    @cached_property
    def deep_importance(self) -> torch.Tensor:
        """(T, N) float32 importance of the deep layer."""
        return self._received("deep")

    @cached_property
    def pooled_shallow(self) -> torch.Tensor:
        """(T, P) float32 pooled importance of the shallow layer."""
        return pool_tokens(self.shallow_importance, self.grid, self.pool)

    @cached_property
    def pooled_deep(self) -> torch.Tensor:
        """(T, P) float32 pooled importance of the deep layer."""
        return pool_tokens(self.deep_importance, self.grid, self.pool)

    def pooled_extra(self, name: str) -> torch.Tensor:
        """A tower output of `extras`, (T, N) or (T, N, K), pooled like the tokens: float32 (T, P) or (T, P, K).

        "attention_last" is an importance, 0 or more; other maps may hold any number.
        """
        values = self.extras[name].float()
        if name == "attention_last":
            return pool_tokens(self._checked(values, name), self.grid, self.pool)
        vectors = values.reshape(*values.shape[:2], -1)
        pooled = pool_tokens(self._checked(vectors, name), self.grid, self.pool)
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
            first_frame=self.first_frame + first,
            clips=None,
        )

    def _received(self, name: str) -> torch.Tensor:
        values = getattr(self, name)
        if values is None:
            raise AOTError(f"This method needs the received attention of the {name} layer; pass {name}=(T, N).")
        return self._checked(values.float(), name)

    def _checked(self, values: torch.Tensor, name: str) -> torch.Tensor:
        """The values; unusable ones are refused, or 0 on a device.

        values: tokens (T, N, D), whose lengths must be at most LARGEST, or an importance (T, N) in [0, LARGEST].
        """
        if values.dim() == 3:
            exact = torch.float64 if values.dtype == torch.float64 else torch.float32
            usable = torch.linalg.vector_norm(values, dim=-1, dtype=exact) <= validation.LARGEST
        else:
            usable = values == values.clamp(0, validation.LARGEST)
        if values.device.type not in validation.HOST_DEVICES:
            self.usable[name] = usable
            return torch.where(usable.unsqueeze(-1) if values.dim() == 3 else usable, values, 0.0)
        if not usable.all():
            raise validation.unusable(name, usable, self.first_frame - (name == "before"))
        return values


def joined_masks(parts: Sequence["VideoTokens | CompressedVideo"]) -> dict[str, torch.Tensor]:
    """The `usable` of parts of a video as those of the whole; of what one part did not read all places count as usable.

    "before" is the first part's: to the others it is a frame of the part in front of them.
    """
    masks = {name: mask for part in reversed(parts) for name, mask in part.usable.items()}
    whole = {"before": parts[0].usable["before"]} if "before" in parts[0].usable else {}
    for name in masks.keys() - {"before"}:
        unread = masks[name].new_ones(1, masks[name].shape[1])
        whole[name] = torch.cat([part.usable.get(name, unread.expand(part.frames, -1)) for part in parts])
    return whole


class TokenKind(IntEnum):
    """Why a token was kept."""

    LOCAL = 0
    GLOBAL = 1
    DYNAMIC = 2
    NEWLINE = 3


@dataclass(frozen=True)
class Selection:
    """Kept tokens as a method returns them, in the order they are to be emitted.

    tokens: (S, D)
    frame: (S,) int64
    position: (S, 2) int64 pooled row and column
    kind: (S,) int64 of TokenKind
    mass: (S,) float32, pooled tokens of the video that each one stands for
    newlines_done: the method placed the newline tokens itself
    newline_frame: (S,) ascending frame behind which a token's newline goes, None for its own frame
    clips: clip lengths in frames, if it cut the video
    trace: named tensors for pictures
    """

    tokens: torch.Tensor
    frame: torch.Tensor
    position: torch.Tensor
    kind: torch.Tensor
    mass: torch.Tensor
    newlines_done: bool = False
    newline_frame: torch.Tensor | None = None
    clips: list[int] | None = None
    trace: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_indices(
        cls,
        tokens: torch.Tensor,
        index: torch.Tensor,
        grid: tuple[int, int],
        *,
        kind: torch.Tensor | TokenKind = TokenKind.GLOBAL,
        mass: torch.Tensor | None = None,
        clips: list[int] | None = None,
        trace: dict[str, Any] | None = None,
    ) -> "Selection":
        """Kept tokens (S, D) from their flat indices t·P + row·W + column, (S,) int64 in ascending order.

        mass None counts every kept token as itself alone (the others are dropped).
        """
        height, width = grid
        frame, place = index // (height * width), index % (height * width)
        return cls(
            tokens=tokens,
            frame=frame,
            position=torch.stack([place // width, place % width], dim=-1),
            kind=kind if isinstance(kind, torch.Tensor) else torch.full_like(index, int(kind)),
            mass=torch.ones(index.shape, dtype=torch.float32, device=index.device) if mass is None else mass,
            clips=clips,
            trace=trace or {},
        )


@dataclass(frozen=True)
class CompressedVideo:
    """A compressed video and where each of its tokens came from.

    tokens: (S, D) in the input's dtype, newline tokens included
    frame: (S,) int64
    position: (S, 2) int64 pooled row and column (column W for newline tokens)
    kind: (S,) int64 of TokenKind
    mass: (S,) float32, how many pooled tokens of the video this one stands for (0 for newlines; sums to T·P when
        nothing is dropped)
    grid: pooled (H, W)
    frames: T
    clips: clip lengths in frames, or None
    config: the effective settings
    trace: importance maps, plans and budgets when asked for, else None
    usable: masks of the input's places that could be used, by name, where the tensors lie on a device; see `check`
    whole_frames: frames of the video that this is a part of, where its stream knows them
    budget: visual tokens that retention and max_tokens allowed, where a distortion may keep fewer, else None
    first_frame: the number of its first frame in the video that this is a part of
    """

    tokens: torch.Tensor
    frame: torch.Tensor
    position: torch.Tensor
    kind: torch.Tensor
    mass: torch.Tensor
    grid: tuple[int, int]
    frames: int
    clips: list[int] | None
    config: AOTConfig
    trace: dict[str, Any] | None = None
    usable: dict[str, torch.Tensor] = field(default_factory=dict)
    whole_frames: int | None = None
    budget: int | None = None
    first_frame: int = 0

    def check(self) -> None:
        """AOTError when the input held values that cannot be used: NaN, Inf, a negative importance.

        On a CPU `compress` has raised it already. This waits for the device, which `compress` does not; a host that
        puts the tokens in a prompt waits there anyway, and asks then.
        """
        for name, usable in self.usable.items():
            if usable.device.type != "meta" and not usable.all():
                raise validation.unusable(name, usable, self.first_frame - (name == "before"))

    @property
    def num_newlines(self) -> int:
        """Number of newline tokens."""
        return int((self.kind == TokenKind.NEWLINE).sum())

    @property
    def num_visual(self) -> int:
        """Number of tokens without the newlines."""
        return self.tokens.shape[0] - self.num_newlines

    @property
    def tokens_before(self) -> int:
        """Pooled tokens of the video, T·P."""
        return self.frames * self.grid[0] * self.grid[1]

    @property
    def retention(self) -> float:
        """Kept share of the pooled tokens, newlines left out."""
        return self.num_visual / self.tokens_before

    @property
    def bound(self) -> str:
        """What decided how many tokens are kept, as in `AOTConfig.bound`; of a part of a stream, in the whole.

        "distortion" where some clip needed fewer than it might have kept.
        """
        if self.budget is not None and self.num_visual < self.budget:
            return "distortion"
        return self.config.bound(self.whole_frames or self.frames, self.grid[0] * self.grid[1])

    def summary(self) -> dict[str, Any]:
        """Counts, shares and settings as plain JSON values. AOTError as in `check`."""
        self.check()
        newlines = self.num_newlines
        visual = self.tokens.shape[0] - newlines
        counts = torch.bincount(self.kind, minlength=len(TokenKind)).tolist()
        return {
            "method": self.config.method,
            "frames": self.frames,
            "grid": list(self.grid),
            "clips": None if self.clips is None else list(self.clips),
            "tokens_before": self.tokens_before,
            "tokens_after": visual,
            "newlines": newlines,
            "retention": visual / self.tokens_before,
            "bound": self.bound,
            "kinds": {kind.name.lower(): counts[kind] for kind in TokenKind},
            "mass": float(self.mass.sum()),
            "config": self.config.to_dict(),
        }


__getattr__ = old_names(__name__, {"Kind": "TokenKind", "kept": "Selection.from_indices"})
