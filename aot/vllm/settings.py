"""What a server does with every video: read once from the model's configuration and checked, vLLM not needed."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import AOTConfig
from ..errors import AOTError
from ..registry import get_method
from ..spatial_pooling import pooled_grid
from ..validation import check_newline_position, count

FRAMES = 32  # LLaVA-OneVision's, and what vLLM samples by itself
# all tokens with all newlines, as the model reads a video without compression
_WHOLE = AOTConfig(method="uniform", retention=1.0, newlines="all")


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """How a server reduces videos.

    config: settings of `aot.compress`. frames: most frames a video may have; the budgets of the server follow from it.
    """

    config: AOTConfig
    frames: int = FRAMES

    @classmethod
    def read(cls, config: Any) -> "VideoSettings":
        """Settings of a model's configuration with these fields of our own, both optional.

        aot: dict of AOTConfig, or None for all tokens; mm_video_frames. Raises AOTError, in one sentence, for settings
        that cannot be served.
        """
        frames = getattr(config, "mm_video_frames", None)
        frames = FRAMES if frames is None else count("mm_video_frames", frames, 1)
        given = getattr(config, "aot", None)
        if given is not None and not isinstance(given, Mapping):
            raise AOTError(f'aot is {given!r}; give a mapping of settings, such as {{"retention": 0.1}}, or null.')
        compression = _WHOLE if given is None else AOTConfig.from_dict(given)
        if get_method(compression.method).in_llm:
            raise AOTError(
                f"Method {compression.method!r} drops tokens inside the language model, which vLLM has no place for; "
                "choose one that acts before it."
            )
        if compression.tower_reuse is not None:
            raise AOTError("vLLM runs the vision tower itself; leave tower_reuse out, or use the split deployment.")
        settings = cls(config=compression, frames=frames)
        settings.token_count(frames, 1)
        return settings

    def token_count(self, frames: int, per_frame: int, **newlines: Any) -> int:
        """Tokens of a video in the prompt, newlines included; AOTError where they depend on what it shows.

        newlines: arguments of `AOTConfig.token_count` about them, none of a model without newlines.
        """
        try:
            return sum(self.config.token_count(frames, per_frame, **{"newline_position": "no_token"} | newlines))
        except AOTError as error:
            raise AOTError(f"{error} vLLM must know them in advance; the split deployment takes any count.") from error

    def check_frames(self, frames: int) -> None:
        """AOTError for a video of more frames than the server was started for."""
        if frames > self.frames:
            raise AOTError(
                f"The video has {frames} frames and this server takes at most {self.frames}; sample fewer, or start "
                "it with more (--frames)."
            )


@dataclass(frozen=True, kw_only=True)
class LlavaSettings(VideoSettings):
    """Of LLaVA-OneVision, whose videos of one length have one count.

    grid: tower tokens (H, W) of a frame. layers: tower layers in use. pool, newline_position: the host model's.
    """

    grid: tuple[int, int]
    layers: int
    pool: str = "bilinear"
    newline_position: str = "one_token"

    @classmethod
    def read(cls, config: Any) -> "LlavaSettings":
        """Further fields: mm_newline_position and mm_spatial_pool_mode as in LLaVA-NeXT's checkpoints.

        Raises AOTError for a vision tower that is no SigLIP as well.
        """
        vision = getattr(config, "vision_config", None)
        kind = getattr(vision, "model_type", None)
        if kind != "siglip_vision_model":
            raise AOTError(
                f"The vision tower is a {kind}, which cannot be served with compression; use a LLaVA-OneVision "
                "checkpoint in the layout of transformers, or convert one of LLaVA-NeXT's (aot convert)."
            )
        side, shared = vision.image_size // vision.patch_size, VideoSettings.read(config)
        layer = getattr(config, "vision_feature_layer", -1)  # whose output the projector reads
        if not isinstance(layer, int):
            raise AOTError(f"vision_feature_layer is {layer!r}; only models that read one layer can be compressed.")
        settings = cls(
            config=shared.config,
            frames=shared.frames,
            grid=(side, side),
            layers=vision.num_hidden_layers + layer + 1 if layer < 0 else layer,
            pool=getattr(config, "mm_spatial_pool_mode", None) or "bilinear",
            newline_position=getattr(config, "mm_newline_position", None) or "one_token",
        )
        check_newline_position(settings.newline_position)
        settings.tokens(settings.frames)
        return settings

    def tokens(self, frames: int) -> int:
        """Tokens of a video in the prompt, newlines included."""
        rows, columns = pooled_grid(self.grid, self.pool)
        return self.token_count(frames, rows * columns, newline_position=self.newline_position, rows=rows)

    def check_context(self, length: int) -> None:
        """AOTError when the longest video and one more token do not fit into a context of `length` tokens."""
        needed = self.tokens(self.frames)
        if needed >= length:
            raise AOTError(
                f"A video of {self.frames} frames takes {needed} tokens and the server's context holds {length}; raise "
                "--max-model-len, or lower the retention or --frames."
            )

    def frames_that_fit(self, tokens: int) -> int:
        """Most frames, up to `frames`, whose tokens are at most `tokens`; 0 when one frame has more."""
        return bisect_right(range(1, self.frames + 1), tokens, key=self.tokens)


def settings_of(config: Any) -> VideoSettings:
    """Settings of a model's configuration, of the family that it is of."""
    return (LlavaSettings if config.model_type == "llava_onevision" else VideoSettings).read(config)
