"""transformers' LlavaOnevisionForConditionalGeneration: frames pooled to a quarter, and a newline behind each video."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ..compress import compress
from ..config import AOTConfig
from ..pooling import pooled_grid
from ..types import CompressedVideo, TokenKind
from .shortening import Family
from .steps import EncodedVideo
from .vision_outputs import Reader, attention_layers, capturing, watch, watch_attention

_PROJECTED = "projected"


class LlavaOnevision(Family):
    """LLaVA-OneVision, whose positions count tokens."""

    names = ("LlavaOnevisionForConditionalGeneration",)

    def check(self, model: Any, needs: Sequence[str]) -> None:
        tower = model.model.vision_tower
        Reader(tower, needs, len(attention_layers(tower)))

    def watch(self, model: Any) -> list:
        return [*watch_attention(model.model.vision_tower), watch(model.model.multi_modal_projector, _PROJECTED)]

    def encode(self, inner: Any, original: Any, args: tuple, kwargs: dict, needs: Sequence[str]) -> tuple[Any, list]:
        call = inspect.signature(original).bind(inner, *args, **kwargs).arguments
        videos = next(call[name] for name in ("pixel_values_videos", "pixel_values") if name in call)
        reader, skip = _reader(inner, call, needs)
        with capturing([*reader.names, _PROJECTED]) as captured:
            result = original(inner, *args, **kwargs)
        return result, split_videos(inner, videos, captured[_PROJECTED], reader.read(captured, skip=skip))

    def compress(self, model: Any, video: EncodedVideo, config: AOTConfig) -> CompressedVideo:
        return compress(
            video.features,
            video.outputs.get("shallow"),
            video.outputs.get("deep"),
            config,
            pool="bilinear",
            newline=model.model.image_newline.detach(),
            newline_position="one_token",
            grid=video.grid,
            extras=video.extras,
        )

    def size(self, video: EncodedVideo) -> int:
        height, width = pooled_grid(video.grid, "bilinear")
        return len(video.features) * height * width + 1

    def own(self, compressed: CompressedVideo) -> torch.Tensor:
        newline = compressed.kind == int(TokenKind.NEWLINE)  # stands behind the last frame
        return super().own(compressed).masked_fill(newline, compressed.tokens_before)


FAMILY = LlavaOnevision()


def split_videos(inner: Any, videos: torch.Tensor, features: torch.Tensor, outputs: dict) -> list[EncodedVideo]:
    """Each of the videos (V, F, ...) from what a tower gave of all frames: features (V·F, N, D), outputs by name."""
    frames = [len(video) for video in videos]
    side = inner.config.vision_config.image_size // inner.config.vision_config.patch_size
    each = {name: value.split(frames) for name, value in outputs.items()}
    parts = features.split(frames)
    return [EncodedVideo(part, {k: v[i] for k, v in each.items()}, (side, side)) for i, part in enumerate(parts)]


def _reader(inner: Any, call: dict, needs: Sequence[str]) -> tuple[Reader, int]:
    """What to read from the tower in this call, and how many class tokens to leave out."""
    layer, strategy = (
        getattr(inner.config, name) if call.get(name) is None else call[name]
        for name in ("vision_feature_layer", "vision_feature_select_strategy")
    )
    total = len(attention_layers(inner.vision_tower))
    used = max(index if index >= 0 else total + 1 + index for index in ([layer] if isinstance(layer, int) else layer))
    return Reader(inner.vision_tower, needs, used), int(strategy == "default")
