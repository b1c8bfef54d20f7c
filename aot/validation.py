"""What is refused, each with one sentence that says what to do: settings, shapes, and values such as NaN.

Reading a value makes the host wait for a GPU. There the places that hold unusable values are set to 0, so that no other
token suffers and the count stays exact, and a mask remembers them. `CompressedVideo.check` reads the masks when
somebody asks. On a CPU `compress` refuses such values itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, field
from decimal import Context, Decimal
from functools import partial
from numbers import Integral, Rational, Real
from operator import index
from typing import TYPE_CHECKING, Any

import torch

from .errors import AOTError

if TYPE_CHECKING:
    from .types import VideoTokens

NEWLINE_POSITIONS = ("grid", "frame", "one_token", "no_token")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# tower outputs with a shape of their own; others may be (T, N) or (T, N, K)
EXTRA_AXES = {"attention_last": (2,), "keys": (3,)}
HOST_DEVICES = ("cpu",)  # whose values are read without waiting for a device
# lengths and importance above it are refused: products of two, times the tokens of a frame, stay within float32
LARGEST = 1e16
EXACT = Context(prec=50)  # decimal arithmetic of shares and budgets, whatever context the caller is in


def number(name: str, value: Any, low: float, high: float, open_low: bool = False) -> float:
    """value as a float in [low, high], or (low, high] when open_low; AOTError names the setting else."""
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise AOTError(f"{name} is {value!r}; use a number.")
    if isinstance(value, Rational):
        number = float(EXACT.divide(int(value.numerator), int(value.denominator)))
    else:  # numpy's float32(0.1) means 0.1, not 0.10000000149
        number = float("nan" if isinstance(value, Decimal) and value.is_nan() else str(value))
    inside = low < number <= high if open_low else low <= number <= high
    if not inside or math.isinf(number):
        bracket = "(" if open_low else "["
        raise AOTError(f"{name} is {value!r}; use a number in {bracket}{low:g}, {high:g}].")
    return number


def count(name: str, value: Any, low: float, high: float = math.inf) -> int:
    """value as an int in [low, high]; AOTError names the setting else."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise AOTError(f"{name} is {value!r}; use a whole number.")
    number = int(value)
    if number < low:
        raise AOTError(f"{name} is {value!r}; use at least {low}.")
    if number > high:
        raise AOTError(f"{name} is {value!r}; use at most {high}.")
    return number


def choice(name: str, value: Any, words: Sequence[str]) -> str:
    """value, which is one of the words; AOTError names the setting else."""
    if not isinstance(value, str) or value not in words:
        raise AOTError(f"{name} is {value!r}; use one of: {', '.join(words)}.")
    return value


def number_in(
    default: float | None, low: float, high: float, *, above: bool = False, variant: str | None = None
) -> Any:
    """A setting of `AOTConfig`, or an option of a method, that is a number in [low, high], or (low, high] when above.

    It may be None where that is the default. variant: of the method "aot" that alone reads it.
    """
    read = partial(number, low=low, high=high, open_low=above)
    return field(default=default, metadata={"read": read, "variant": variant})


def count_from(default: int | None, low: int = 1, high: int = 2**31 - 1, *, variant: str | None = None) -> Any:
    """A setting that is a whole number in [low, high]; otherwise as `number_in`."""
    return field(default=default, metadata={"read": partial(count, low=low, high=high), "variant": variant})


def one_of(*words: str, variant: str | None = None) -> Any:
    """A setting that is one of the words, by itself the first; otherwise as `number_in`."""
    return field(default=words[0], metadata={"read": partial(choice, words=words), "variant": variant})


def read_setting(name: str, value: Any, setting: Field) -> Any:
    """value as a plain float, int or word; AOTError, with the name, for one that the setting cannot have."""
    read = setting.metadata.get("read")
    return value if read is None or (value is None and setting.default is None) else read(name, value)


def check_arguments(features: Any, named: Mapping[str, Any], extras: Any) -> None:
    """AOTError unless features are (T, N, D), extras a mapping or None, and no tower output of `named` is in extras."""
    if not isinstance(features, torch.Tensor) or features.dim() != 3:
        found = f"{tuple(features.shape)}" if isinstance(features, torch.Tensor) else type(features).__name__
        raise AOTError(f"features must be a (T, N, D) tensor; got {found}.")
    if extras is not None and not isinstance(extras, Mapping):
        raise AOTError(f"extras is a {type(extras).__name__}; give a mapping of names to tensors.")
    for name, given in named.items():
        if given is not None and name in (extras or {}):
            raise AOTError(f"{name} is given twice; leave it out of extras, or out of the arguments.")


def check_newline_position(position: str) -> None:
    """AOTError unless `position` is one of the host model's newline modes."""
    if position not in NEWLINE_POSITIONS:
        raise AOTError(f"Unknown newline_position {position!r}; use one of: {', '.join(NEWLINE_POSITIONS)}.")


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


def check_clips(clips: Sequence[int], frames: int) -> list[int]:
    """Clip lengths as ints; AOTError unless they are positive and sum to the number of frames."""
    try:
        lengths = [index(length) for length in clips]
    except TypeError:
        raise AOTError(f"clips is {clips!r}; give whole numbers of frames that add up to {frames}.") from None
    if not lengths or min(lengths) < 1 or sum(lengths) != frames:
        raise AOTError(f"Clip lengths {lengths} do not add up to {frames} frames; give positive ones that do.")
    return lengths


def check_video(video: "VideoTokens", requires: tuple[str, ...]) -> None:
    """AOTError when shapes, dtypes or devices of the inputs do not fit together or a required one is missing."""
    features = video.features
    frames, tokens, width = features.shape
    if frames < 1 or tokens < 1 or width < 1:
        raise AOTError(f"features are empty, {tuple(features.shape)}; give at least one frame.")
    if features.dtype not in DTYPES or features.layout != torch.strided:
        kind = f"{features.dtype} of layout {features.layout}"
        raise AOTError(f"features are {kind}; use a dense floating tensor of float16, bfloat16, float32 or float64.")
    # received attention and further tower outputs: (T, N) or (T, N, K)
    given = {"shallow": video.shallow, "deep": video.deep}
    for name, values in given.items():
        if values is not None:
            _check_tensor(name, values, features, (2,))
        elif name in requires:
            raise AOTError(f"This method needs the received attention of the {name} layer; pass {name}=(T, N).")
    missing = [name for name in requires if name not in given and name not in video.extras]
    if missing:
        raise AOTError(f"This method needs {', '.join(missing)} of the tower; pass extras={{name: tensor}}.")
    for name in requires:
        if name in video.extras:
            _check_tensor(name, video.extras[name], features, EXTRA_AXES.get(name, (2, 3)))
    # the frame before, and the newline token
    if video.before is not None:
        _check_tensor("before", video.before, features)
        if video.before.shape != (1, tokens, width) or video.before.dtype != features.dtype:
            found = f"{tuple(video.before.shape)} of {video.before.dtype}"
            raise AOTError(f"before is {found}; it must be one frame, {(1, tokens, width)} of {features.dtype}.")
    if video.newline is not None:
        if not isinstance(video.newline, torch.Tensor) or video.newline.shape != (width,):
            shape = tuple(getattr(video.newline, "shape", ()))
            raise AOTError(f"newline is {shape or type(video.newline).__name__}; it must be (D,) = ({width},).")
        if video.newline.device.type in HOST_DEVICES and not video.newline.to(features.dtype).isfinite().all():
            raise AOTError(f"newline holds NaN, Inf or what {features.dtype} cannot hold; give the model's own.")


def _check_tensor(name: str, values: Any, features: torch.Tensor, axes: tuple[int, ...] = ()) -> None:
    """A dense tensor of real numbers beside the features; with axes, a tower output of so many, (T, N) or (T, N, K)."""
    if not isinstance(values, torch.Tensor) or values.layout != torch.strided or values.is_complex():
        kind = f"{values.dtype} tensor" if isinstance(values, torch.Tensor) else type(values).__name__
        raise AOTError(f"{name} is a {kind}; give a dense tensor of real numbers.")
    if values.device != features.device:
        raise AOTError(f"{name} is on {values.device} and the features on {features.device}; move one of them.")
    frames, tokens, _ = features.shape
    if axes and (values.dim() not in axes or values.shape[:2] != (frames, tokens) or values.numel() == 0):
        wanted = " or ".join("(T, N)" if axis == 2 else "(T, N, K)" for axis in axes)
        raise AOTError(f"{name} is {tuple(values.shape)}; it must be {wanted}, T = {frames} and N = {tokens}.")


def unusable(name: str, usable: torch.Tensor, first_frame: int) -> AOTError:
    """What to say where a mask (T, P) of usable places is not True everywhere; it names the first one.

    first_frame: the number of frame 0 of the mask.
    """
    bad = (~usable).nonzero()
    return AOTError(
        f"{name} cannot be used at {len(bad)} of {usable.numel()} places, first in frame "
        f"{first_frame + int(bad[0, 0])} at token {int(bad[0, 1])}: NaN, Inf, a negative importance or a length above "
        f"{LARGEST:g}; look at what made it, such as a tower in float16."
    )
