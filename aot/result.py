"""What a method returns, and what `compress` returns."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch

from .config import AOTConfig
from .values import refuse


class Kind(IntEnum):
    """Why a token was kept."""

    LOCAL = 0
    GLOBAL = 1
    DYNAMIC = 2
    NEWLINE = 3


@dataclass(frozen=True)
class Selection:
    """Kept tokens as a method returns them, in the order they are to be emitted.

    tokens: (S, D). frame: (S,) int64. position: (S, 2) int64 pooled row and column. kind: (S,) int64 of Kind.
    mass: (S,) float32, pooled tokens of the video that each one stands for.
    newlines_done: the method placed the newline tokens itself. newline_frame: (S,) ascending frame behind
    which a token's newline goes, None for its own frame. clips: clip lengths, if it cut the video.
    trace: named tensors for pictures.
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


def kept(
    tokens: torch.Tensor,
    index: torch.Tensor,
    grid: tuple[int, int],
    *,
    kind: torch.Tensor | Kind = Kind.GLOBAL,
    mass: torch.Tensor | None = None,
    clips: list[int] | None = None,
    trace: dict[str, Any] | None = None,
) -> Selection:
    """Selection from flat indices t·P + row·W + column, (S,) int64 in ascending order.

    tokens: (S, D). mass None counts every kept token as itself alone (the others are dropped).
    """
    height, width = grid
    frame, place = index // (height * width), index % (height * width)
    return Selection(
        tokens=tokens,
        frame=frame,
        position=torch.stack([place // width, place % width], dim=-1),
        kind=kind if isinstance(kind, torch.Tensor) else torch.full_like(index, int(kind)),
        mass=torch.ones(index.shape, device=index.device) if mass is None else mass,
        clips=clips,
        trace=trace or {},
    )


@dataclass(frozen=True)
class CompressedVideo:
    """A compressed video and where each of its tokens came from.

    tokens: (S, D) in the input's dtype, newline tokens included. frame: (S,) int64. position: (S, 2) int64
    pooled row and column (column W for newline tokens). kind: (S,) int64 of `Kind`. mass: (S,) float32, how
    many pooled tokens of the video this one stands for (0 for newlines; sums to T·P when nothing is dropped).
    grid: pooled (H, W). frames: T. clips: clip lengths or None. config: the effective settings.
    trace: importance maps, plans and budgets when asked for, else None. usable: masks of the input's places that could
    be used, by name, where the tensors lie on a device; see `check`.
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

    def check(self) -> None:
        """AOTError when the input held values that cannot be used: NaN, Inf, a negative importance.

        On a CPU `compress` has raised it already. This waits for the device, which `compress` does not.
        """
        for name, usable in self.usable.items():
            refuse(name, usable)

    @property
    def num_newlines(self) -> int:
        """Number of newline tokens."""
        return int((self.kind == Kind.NEWLINE).sum())

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

    def summary(self) -> dict[str, Any]:
        """Counts, shares and settings as plain JSON values. AOTError as in `check`."""
        self.check()
        newlines = self.num_newlines
        visual = self.tokens.shape[0] - newlines
        counts = torch.bincount(self.kind, minlength=len(Kind)).tolist()
        return {
            "method": self.config.method,
            "frames": self.frames,
            "grid": list(self.grid),
            "clips": None if self.clips is None else list(self.clips),
            "tokens_before": self.tokens_before,
            "tokens_after": visual,
            "newlines": newlines,
            "retention": visual / self.tokens_before,
            "kinds": {kind.name.lower(): counts[kind] for kind in Kind},
            "mass": float(self.mass.sum()),
            "config": self.config.to_dict(),
        }
