"""transformers' InternVLForConditionalGeneration, to which the frames of a video are images.

Its processor puts the tiles of images and the frames of videos in one `pixel_values`. A call of the model or of its
`generate` says with `video_frames` which of them are frames; without it, all are images, and nothing is compressed.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import AOTError
from .hf_base import Family, frame_ranges_of_call
from .hf_generate import EncodedVideo, split_videos
from .vision_outputs import capturing, merged, reader_of


class InternVL(Family):
    """InternVL, whose positions count tokens. A frame is a tile, made to a token by 2x2 patches."""

    names = ("InternVLForConditionalGeneration",)
    modality, argument = "image", "video_frames"

    def encode(self, inner: Any, original: Any, args: tuple, kwargs: dict, needs: Sequence[str]) -> tuple[Any, list]:
        videos = frame_ranges_of_call()
        reader, skip = reader_of(inner, kwargs, needs if videos else ())
        with capturing(reader.names) as captured:
            result = original(inner, *args, **kwargs)
        tokens = getattr(result, "pooler_output", result)  # (tiles, P, D)
        _check_frames(videos, len(tokens))
        stride = round(1 / inner.config.downsample_ratio)
        side = round(tokens.shape[1] ** 0.5)
        outputs = merged(reader.read(captured, skip=skip), (side * stride, side * stride), stride)
        # videos, and between them each tile of an image by itself
        starts = {frames.start: len(frames) for frames in videos}
        inside = {tile for frames in videos for tile in frames[1:]}
        firsts = [tile for tile in range(len(tokens)) if tile not in inside]
        parts = split_videos(tokens, outputs, [starts.get(tile, 1) for tile in firsts], (side, side))
        return result, [
            part if tile in starts else EncodedVideo(part.features, {}, part.grid, still=True)
            for tile, part in zip(firsts, parts, strict=True)
        ]

    def tiles(self, video: EncodedVideo) -> int:
        return len(video.features)

    def cannot_repeat(self, model: Any, ids: torch.Tensor, inputs: dict) -> bool:
        return bool(frame_ranges_of_call())


FAMILY = InternVL()


def _check_frames(videos: Sequence[range], tiles: int) -> None:
    """AOTError unless these are ranges of the tiles, in their order, that have no tile in common."""
    last = 0
    for frames in videos:
        if not isinstance(frames, range) or frames.step != 1 or not last <= frames.start < frames.stop <= tiles:
            raise AOTError(
                f"video_frames holds {frames!r}; give for each video the range of its frames among the {tiles} tiles "
                "of pixel_values, in their order, as [range(0, 16)]."
            )
        last = frames.stop
