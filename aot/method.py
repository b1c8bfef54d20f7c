"""The method "aot": one configuration, whose schedule says in which order its steps run."""

from .cascade import compress_cascade
from .config import AOTConfig
from .joint import compress_joint
from .registry import register
from .result import Selection
from .video import VideoTokens


@register("aot", needs=("shallow", "deep"))
def aot(video: VideoTokens, config: AOTConfig) -> Selection:
    """Anchors by attention, the rest carried onto them by optimal transport."""
    return compress_joint(video, config) if config.schedule == "joint" else compress_cascade(video, config)
