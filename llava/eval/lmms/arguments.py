"""``--model_args`` of a wrapper: the method's settings among them, and what must fit the checkpoint beforehand."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from aot import AOTConfig
from aot.errors import AOTError
from llava.model.checkpoint import read_settings
from llava.video import DECODERS

ONEVISION, VIDEO = "LLaVA-OneVision", "LLaVA-Video"
WRAPPERS = {ONEVISION: "llava_onevision", VIDEO: "llava_vid"}
_POOLS = {ONEVISION: ("bilinear",), VIDEO: ("average", "bilinear")}  # the first is how the family is evaluated
_NAMES = {field.name for field in fields(AOTConfig)}
_KNOWN_POOLS = ("average", "bilinear", "max")


def read_config(pretrained: str | None) -> dict:
    """config.json of the checkpoint that --model_args names; ValueError when they name none."""
    if not pretrained:
        raise ValueError("--model_args name no checkpoint; add pretrained=CHECKPOINT.")
    return read_settings(pretrained)


def family(settings: Mapping[str, Any]) -> str | None:
    """The family of a checkpoint by its config.json; None for one that is of neither.

    The published LLaVA-Video checkpoints say grid newlines, the published LLaVA-OneVision ones one_token or nothing.
    """
    return {"grid": VIDEO, "one_token": ONEVISION, None: ONEVISION}.get(settings.get("mm_newline_position"))


def check_family(path: str, settings: Mapping[str, Any], wrapper_family: str) -> None:
    """ValueError when the checkpoint belongs to the other wrapper."""
    found = family(settings)
    if found is not None and found != wrapper_family:
        raise ValueError(
            f"{path} is a {found} checkpoint (mm_newline_position {settings.get('mm_newline_position')!r}) and this "
            f"wrapper arranges videos as {wrapper_family} does; use --model {WRAPPERS[found]} or {WRAPPERS[found]}_aot."
        )


def default_pool(settings: Mapping[str, Any]) -> str:
    """The pooling a checkpoint is evaluated with."""
    found = family(settings)
    return _POOLS[found][0] if found else settings.get("mm_spatial_pool_mode") or "bilinear"


def check_pool(settings: Mapping[str, Any], mode: str, stride: int) -> None:
    """ValueError for a pooling that the checkpoint was not made for."""
    allowed = _POOLS.get(family(settings), _KNOWN_POOLS)
    if mode not in allowed:
        raise ValueError(f"mm_spatial_pool_mode is {mode!r}; this checkpoint takes: {', '.join(allowed)}.")
    if int(stride) != 2:
        raise ValueError(f"mm_spatial_pool_stride is {stride}; pooling is always by 2 here, leave it out.")


def check_decoder(name: str) -> None:
    """ValueError for a video_decode_backend that there is not."""
    if name not in DECODERS:
        raise ValueError(f"There is no video_decode_backend {name!r}; choose one of {', '.join(DECODERS)}.")


def split_arguments(arguments: Mapping[str, Any]) -> tuple[AOTConfig | None, dict[str, Any]]:
    """(settings, the other arguments) of ``--model_args``; settings None for no reduction (``retention=1``).

    ``preset`` and every field of AOTConfig are taken; ``options`` as JSON, such as options={"seed": 1}. Without any
    of them the method's default settings hold. Raises AOTError for a value that is no good.
    """
    named = {key: _value(key, value) for key, value in arguments.items() if key in _NAMES}
    rest = {key: value for key, value in arguments.items() if key not in _NAMES and key != "preset"}
    config = AOTConfig.preset(str(arguments.get("preset", "default")), **named)
    return None if config.keeps_all and config.method == "aot" else config, rest


def _value(name: str, value: Any) -> Any:
    """lmms-eval hands over numbers, booleans and words; "none" and JSON are still words."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "null"):
        return None
    if name != "options":
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise AOTError(f'options is {value!r}; write it as JSON, such as options={{"seed": 1}}.') from error
