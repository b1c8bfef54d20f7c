"""transformers' LlavaOnevisionForConditionalGeneration: frames pooled to a quarter, and a newline behind each video."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ..compress import compress
from ..config import AOTConfig
from ..spatial_pooling import pooled_grid
from ..types import CompressedVideo, TokenKind
from .shortening import Family
from .steps import EncodedVideo, split_videos
from .vision_outputs import Reader, attention_layers, capturing, reader_of, watch, watch_attention

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
        reader, skip = reader_of(inner, call, needs)
        with capturing([*reader.names, _PROJECTED]) as captured:
            result = original(inner, *args, **kwargs)
        side = inner.config.vision_config.image_size // inner.config.vision_config.patch_size
        frames = [len(video) for video in videos]
        return result, split_videos(captured[_PROJECTED], reader.read(captured, skip=skip), frames, (side, side))

    def compress(self, model: Any, video: EncodedVideo, config: AOTConfig, *, trace: bool = False) -> CompressedVideo:
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
            trace=trace,
        )

    def size(self, video: EncodedVideo) -> int:
        height, width = pooled_grid(video.grid, "bilinear")
        return len(video.features) * height * width + 1

    def cannot_repeat(self, model: Any, ids: torch.Tensor, inputs: dict) -> bool:
        return several_a_row(ids, self.token(model), inputs)

    def own(self, compressed: CompressedVideo) -> torch.Tensor:
        newline = compressed.kind == int(TokenKind.NEWLINE)  # stands behind the last frame
        return super().own(compressed).masked_fill(newline, compressed.tokens_before)


FAMILY = LlavaOnevision()


def several_a_row(ids: torch.Tensor, token: int, inputs: dict) -> bool:
    """Does a prompt (B, L) show more than one of the videos, which have as many placeholders `token` each?"""
    counts, videos = (ids == token).sum(1), inputs.get("pixel_values_videos")
    return videos is not None and bool(counts.max() * len(videos) > counts.sum())
