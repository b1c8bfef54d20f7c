"""AOT: token reduction for video language models by anchors and optimal transport."""

from typing import Any

from . import methods
from .apply import Applied, apply, remove
from .compress import compress
from .config import AOTConfig
from .deprecated import NAMES, find_old_modules, warn_renamed
from .errors import AOTError
from .ops.received_attention import layers
from .pooling import pool_tokens, pooled_grid
from .registry import method_names, register
from .stream import VideoStream, join
from .types import CompressedVideo, TokenKind
from .warm_up import warm_up

__all__ = [
    "AOTConfig",
    "AOTError",
    "Applied",
    "CompressedVideo",
    "TokenKind",
    "VideoStream",
    "apply",
    "compress",
    "join",
    "layers",
    "method_names",
    "methods",
    "pool_tokens",
    "pooled_grid",
    "register",
    "remove",
    "warm_up",
]

find_old_modules()


def __getattr__(name: str) -> Any:
    """Names of the last release, with a warning."""
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"aot.{name}", f"aot.{NAMES[name]}")
    return globals()[NAMES[name]]
