"""transformers' LlavaNextVideoForConditionalGeneration: frames pooled before the projector, and no newline."""

from collections.abc import Sequence
from typing import Any

import torch

from .hf_base import Family
from .hf_generate import split_videos
from .hf_onevision import given_videos, several_a_row
from .vision_outputs import capturing, merged, reader_of


class LlavaNextVideo(Family):
    """LLaVA-NeXT-Video, whose positions count tokens."""

    names = ("LlavaNextVideoForConditionalGeneration",)

    def encode(self, inner: Any, original: Any, args: tuple, kwargs: dict, needs: Sequence[str]) -> tuple[Any, list]:
        call, videos = given_videos(inner, original, args, kwargs)
        reader, skip = reader_of(inner, call, needs)
        with capturing(reader.names) as captured:
            result = original(inner, *args, **kwargs)
        features = getattr(result, "pooler_output", result)  # (V, F·P, D), in transformers 4 V times (F, P, D)
        config, stride = inner.config.vision_config, inner.config.spatial_pool_stride
        side = config.image_size // config.patch_size
        grid = (side // stride, side // stride)
        tokens = torch.cat([video.reshape(-1, grid[0] * grid[1], video.shape[-1]) for video in features])
        outputs = merged(reader.read(captured, skip=skip), (side, side), stride)
        return result, split_videos(tokens, outputs, [len(video) for video in videos], grid)

    def cannot_repeat(self, model: Any, ids: torch.Tensor, inputs: dict) -> bool:
        return several_a_row(ids, self.placeholder(model), inputs)


FAMILY = LlavaNextVideo()
