"""Encoded clips: each is decoded and goes through the tower once for all settings of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from aot import AOTConfig
from llava.model.compression import CapturePlan, VideoFeatures, capture_plan
from llava.video import load_video

GREY = 127
ROOM = 2 * 2**30  # bytes of features kept; what is over is encoded again when it is needed


def shared_plan(tower, configs: Iterable[AOTConfig | None]) -> CapturePlan:
    """What the tower must capture for all of these settings together."""
    plans = [capture_plan(tower, config, maps=True) for config in (None, *configs)]
    received = {name: layer for plan in plans for name, layer in plan.received.items()}
    return CapturePlan(received, {name: layer for plan in plans for name, layer in plan.keys.items()})


class FeatureCache:
    """Features of the clips of an exam, made when they are first asked for.

    files: by clip number. room: bytes of features that may be kept.
    """

    def __init__(self, model, processor, files: dict[int, Path], plan: CapturePlan, *, room: int = ROOM):
        self.model, self.processor, self.files, self.plan, self.room = model, processor, files, plan, room
        self.frames = getattr(model.config, "mm_video_frames", 32)
        self.kept: dict[int | None, VideoFeatures] = {}

    def clip(self, number: int) -> VideoFeatures:
        """Features of a clip."""
        if number not in self.kept:
            return self._keep(number, load_video(str(self.files[number]), num_frames=self.frames).frames)
        return self.kept[number]

    def blank(self) -> VideoFeatures:
        """Features of grey frames, the same for every clip."""
        if None not in self.kept:
            size = self.model.get_vision_tower().image_size
            return self._keep(None, np.full((self.frames, size, size, 3), GREY, np.uint8))
        return self.kept[None]

    @torch.inference_mode()
    def _keep(self, key: int | None, frames: np.ndarray) -> VideoFeatures:
        pixels = self.processor.preprocess(frames, return_tensors="pt")["pixel_values"]
        video = self.model.encode_video(pixels.to(self.model.device), plan=self.plan)
        size = sum(t.nbytes for t in (video.features, video.shallow, video.deep, *video.extras.values()))
        if size <= self.room:
            self.room -= size
            self.kept[key] = video
        return video
