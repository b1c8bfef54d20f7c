"""AOT: token reduction for video language models by anchors and optimal transport."""

from . import methods
from .apply import Applied, apply, remove
from .compress import compress
from .config import AOTConfig
from .deprecated import MODULES, find_modules, old_names
from .errors import AOTError
from .live import LiveStream
from .ops.received_attention import layers
from .registry import method_names, register
from .spatial_pooling import pool_tokens, pooled_grid
from .stream import VideoStream, join
from .types import CompressedVideo, TokenKind
from .warm_up import warm_up

__all__ = [
    "AOTConfig",
    "AOTError",
    "Applied",
    "CompressedVideo",
    "LiveStream",
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

find_modules(MODULES)
__getattr__ = old_names(__name__, {"Kind": "TokenKind", "baselines": "methods"})
