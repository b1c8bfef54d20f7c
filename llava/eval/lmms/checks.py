"""What must fit between a wrapper, its arguments and a checkpoint before a single question is asked."""

from collections.abc import Mapping
from typing import Any

from llava.model.checkpoint import read_settings

ONEVISION, VIDEO = "LLaVA-OneVision", "LLaVA-Video"
WRAPPERS = {ONEVISION: "llava_onevision", VIDEO: "llava_vid"}
_POOLS = {ONEVISION: ("bilinear",), VIDEO: ("average", "bilinear")}  # the first is how the family is evaluated
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
