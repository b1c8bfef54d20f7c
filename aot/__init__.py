"""AOT: token reduction for video language models by anchors and optimal transport."""

from . import baselines, method
from .anchors import layers
from .apply import Applied, apply, remove
from .compress import compress
from .config import AOTConfig
from .errors import AOTError
from .pooling import pool_tokens, pooled_grid
from .registry import method_names, register
from .result import CompressedVideo, Kind
from .stream import VideoStream, join
from .warm_up import warm_up

__all__ = [
    "AOTConfig",
    "AOTError",
    "Applied",
    "CompressedVideo",
    "Kind",
    "VideoStream",
    "apply",
    "baselines",
    "compress",
    "join",
    "layers",
    "method",
    "method_names",
    "pool_tokens",
    "pooled_grid",
    "register",
    "remove",
    "warm_up",
]
