"""transformers' LlavaOnevisionForConditionalGeneration: frames pooled to a quarter, and a newline behind each video."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ..spatial_pooling import pooled_grid
from ..types import CompressedVideo, TokenKind
from .hf_base import Family
from .hf_generate import EncodedVideo, split_videos
from .vision_outputs import capturing, reader_of, watch

_PROJECTED = "projected"


class LlavaOnevision(Family):
    """LLaVA-OneVision, whose positions count tokens."""

    names = ("LlavaOnevisionForConditionalGeneration",)

    def watch(self, model: Any) -> list:
        return [*super().watch(model), watch(model.model.multi_modal_projector, _PROJECTED)]

    def encode(self, inner: Any, original: Any, args: tuple, kwargs: dict, needs: Sequence[str]) -> tuple[Any, list]:
        call, videos = given_videos(inner, original, args, kwargs)
        reader, skip = reader_of(inner, call, needs)
        with capturing([*reader.names, _PROJECTED]) as captured:
            result = original(inner, *args, **kwargs)
        side = inner.config.vision_config.image_size // inner.config.vision_config.patch_size
        frames = [len(video) for video in videos]
        return result, split_videos(captured[_PROJECTED], reader.read(captured, skip=skip), frames, (side, side))

    def arrangement(self, model: Any) -> dict[str, Any]:
        return {"pool": "bilinear", "newline": model.model.image_newline, "newline_position": "one_token"}

    def placeholder_count(self, video: EncodedVideo) -> int:
        height, width = pooled_grid(video.grid, "bilinear")
        return len(video.features) * height * width + 1

    def cannot_repeat(self, model: Any, ids: torch.Tensor, inputs: dict) -> bool:
        return several_a_row(ids, self.placeholder(model), inputs)

    def placeholder_index(self, compressed: CompressedVideo) -> torch.Tensor:
        newline = compressed.kind == int(TokenKind.NEWLINE)  # stands behind the last frame
        return super().placeholder_index(compressed).masked_fill(newline, compressed.tokens_before)


FAMILY = LlavaOnevision()


def given_videos(inner: Any, original: Any, args: tuple, kwargs: dict) -> tuple[dict[str, Any], torch.Tensor]:
    """The arguments by name of a call of the model's own method, and the pixels (V, F, 3, S, S) among them."""
    call = inspect.signature(original).bind(inner, *args, **kwargs).arguments
    return call, next(call[name] for name in ("pixel_values_videos", "pixel_values") if name in call)


def several_a_row(ids: torch.Tensor, token: int, inputs: dict) -> bool:
    """Does a prompt (B, L) show more than one of the videos, which have as many placeholders `token` each?"""
    counts, videos = (ids == token).sum(1), inputs.get("pixel_values_videos")
    return videos is not None and bool(counts.max() * len(videos) > counts.sum())
