"""`compress`: the one entry of the package."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .checks import check_newline_position
from .config import AOTConfig
from .errors import AOTError
from .newlines import insert_newlines
from .registry import get_method
from .result import CompressedVideo
from .video import VideoTokens, check_clips, check_grid, check_video


def compress(
    features: torch.Tensor,
    shallow: torch.Tensor | None,
    deep: torch.Tensor | None,
    config: AOTConfig | Mapping[str, Any],
    *,
    pool: str | None = "bilinear",
    newline: torch.Tensor | None = None,
    newline_position: str = "grid",
    clips: Sequence[int] | None = None,
    grid: tuple[int, int] | None = None,
    extras: Mapping[str, torch.Tensor] | None = None,
    before: torch.Tensor | None = None,
    trace: bool = False,
) -> CompressedVideo:
    """Reduces the tokens of one video.

    features: (T, N, D) after the projector, before the 2x pooling. shallow, deep: (T, N) received attention
    of the two layers of `aot.layers`, or None for a method that does not read them. config: AOTConfig or its
    dict. pool: the host model's pooling. newline: (D,) newline token or None, with the host's
    newline_position ("grid", "frame", "one_token", "no_token"). clips: clip lengths in frames that sum to T;
    None lets the config decide. grid: tower (H, W); None means square. extras: further tower outputs by name,
    for methods that need them. before: (1, N, D), the frame before these in a stream.
    trace: keep importance maps, plans and budgets for pictures.
    Raises AOTError (a ValueError) for inputs or settings that do not fit, and on a CPU for values that cannot be used
    (NaN, Inf, a negative importance). A GPU is not waited for: there such places count as 0, and `check` of the result
    raises the error when somebody asks. No gradient is taken.
    """
    if isinstance(config, Mapping):
        config = AOTConfig.from_dict(config)
    if not isinstance(config, AOTConfig):
        raise AOTError(f"config is a {type(config).__name__}; give an AOTConfig or its dict.")
    if not isinstance(features, torch.Tensor) or features.dim() != 3:
        raise AOTError(f"features must be a (T, N, D) tensor; got {_describe(features)}.")
    if extras is not None and not isinstance(extras, Mapping):
        raise AOTError(f"extras is a {type(extras).__name__}; give a mapping of names to tensors.")
    check_newline_position(newline_position)
    video = VideoTokens(
        features=features,
        shallow=shallow,
        deep=deep,
        grid=check_grid(features.shape[1], grid),
        pool=pool,
        clips=check_clips(clips, features.shape[0]),
        newline=newline,
        newline_position=newline_position,
        extras={} if extras is None else extras,
        before=before,
        trace=trace,
    )
    method = get_method(config.method)
    check_video(video, method.needs)
    with torch.no_grad():
        selection = insert_newlines(method.run(video, config), video, config)
    return CompressedVideo(
        tokens=selection.tokens,
        frame=selection.frame,
        position=selection.position,
        kind=selection.kind,
        mass=selection.mass,
        grid=video.pooled_grid,
        frames=video.frames,
        clips=selection.clips if selection.clips is not None else video.clips,
        config=config,
        trace=selection.trace if trace else None,
        usable=video.usable,
    )


def _describe(value: Any) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
