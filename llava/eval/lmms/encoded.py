"""Videos that are encoded on the disk, between a stock wrapper that wants frames and a model that wants features."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from llava.model.compression import CapturePlan, VideoFeatures, capture_plan
from llava.model.long_video import STREAM_ABOVE, can_stream
from llava.video import Video, load_video
from llava.video_cache import VideoCache

GREY = 127


@dataclass(frozen=True)
class _Shown:
    """A video of the question under way. features: None where they are not on the disk."""

    path: str
    video: Video
    asked: Mapping[str, Any]
    key: str
    plan: CapturePlan
    features: VideoFeatures | None


class EncodedVideos:
    """The videos of one question after another.

    One that is on the disk is neither decoded nor encoded: the stock wrapper is given as many grey frames, and the
    model, for those, the features. Another is encoded as ever and kept, unless its file changed meanwhile. Long ones
    that are compressed while they are encoded go by.
    """

    def __init__(self, model: Any, cache: VideoCache):
        self.model, self.cache = model, cache
        self._shown: list[_Shown] = []
        self._encode, model.encode_videos = model.encode_videos, self._encoded

    @contextmanager
    def question(self, *, alone: bool) -> Iterator[None]:
        """Around a question. alone: it goes through the stock wrapper, which rounds pixels in a way of its own.

        Raises RuntimeError when the model did not come by for the features of what was read.
        """
        self._shown, self._alone = [], alone
        yield
        if self._shown:
            raise RuntimeError(f"{self._shown[0].path} was read, and the model was not shown it")

    def read(self, path: str, **sampling: Any) -> Video:
        """As `load_video`, with grey frames of one pixel where the features are there. Raises VideoError."""
        config = self.model.config.aot
        plan = capture_plan(self.model.get_vision_tower(), config)
        asked = {"frames": sampling, "captured": asdict(plan), "alone": self._alone}
        key = self.cache.key(path, **asked)
        video, features = self.cache.load(key, self.model.device) or (load_video(path, **sampling), None)
        if len(video.times) > STREAM_ABOVE and can_stream(config):
            return video if features is None else load_video(path, **sampling)
        self._shown.append(_Shown(path, video, asked, key, plan, features))
        if features is None:
            return video
        return replace(video, frames=np.full((len(video.times), 1, 1, 3), GREY, np.uint8))

    def _encoded(self, pixels: list[torch.Tensor]) -> list[VideoFeatures]:
        """In the place of the model's `encode_videos`: features of the videos that were read, in their order."""
        shown, self._shown = self._shown, []
        if [len(one.video.times) for one in shown] != [len(one) for one in pixels]:
            raise RuntimeError(f"the model was shown {len(pixels)} videos and {len(shown)} were read, or other frames")
        return [self._features(one, frames) for one, frames in zip(shown, pixels, strict=True)]

    def _features(self, shown: _Shown, pixels: torch.Tensor) -> VideoFeatures:
        if shown.features is not None:
            self.model.last_tower_flops += shown.features.flops  # what they cost once, as the record says
            return shown.features
        (features,) = self._encode([pixels], plan=shown.plan)
        if self.cache.key(shown.path, **shown.asked) == shown.key:
            self.cache.save(shown.key, shown.path, shown.video, features)
        return features
