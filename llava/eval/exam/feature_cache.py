"""Encoded clips: each is decoded and goes through the tower once for all settings of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from aot import AOTConfig
from llava.model.compression import CapturePlan, VideoFeatures, capture_plan
from llava.video import load_video

GREY = 127
ROOM = 4 * 2**30  # bytes of features kept; what is over is encoded again when it is needed


def shared_plan(tower, configs: Iterable[AOTConfig | None]) -> CapturePlan:
    """What the tower must capture for all of these settings together."""
    plans = [capture_plan(tower, config, maps=True) for config in (None, *configs)]
    received = {name: layer for plan in plans for name, layer in plan.received.items()}
    return CapturePlan(received, {name: layer for plan in plans for name, layer in plan.keys.items()})


class FeatureCache:
    """Features of the clips of an exam, made when they are first asked for.

    files: by clip number. frames: how many of a clip are looked at, by its number; the model's own where none is given.
    room: bytes of features that may be kept. tower_share: of each clip that was encoded, by its key, the share of the
    tower's counted operations that were spent on it.
    """

    def __init__(
        self,
        model,
        processor,
        files: dict[int, Path],
        plan: CapturePlan,
        *,
        frames: Mapping[int, int | None] | None = None,
        room: int = ROOM,
    ):
        self.model, self.processor, self.files, self.plan, self.room = model, processor, files, plan, room
        self.frames = frames or {}
        self.kept: dict[tuple, VideoFeatures] = {}
        self.tower_share: dict[tuple, float] = {}

    def num_frames(self, number: int) -> int:
        return self.frames.get(number) or getattr(self.model.config, "mm_video_frames", 32)

    def clip(self, number: int, reuse: float | None = None) -> VideoFeatures:
        """Features of a clip, encoded under `AOTConfig.tower_reuse`."""
        key = ("clip", number, reuse)
        if key not in self.kept:
            return self._keep(key, load_video(str(self.files[number]), num_frames=self.num_frames(number)).frames)
        return self.kept[key]

    def blank(self, number: int) -> VideoFeatures:
        """Features of grey frames, as many as of a clip, the same for all clips of this length."""
        key = ("blank", self.num_frames(number))
        if key not in self.kept:
            size = self.model.get_vision_tower().image_size
            return self._keep(key, np.full((key[1], size, size, 3), GREY, np.uint8))
        return self.kept[key]

    @torch.inference_mode()
    def _keep(self, key: tuple, frames: np.ndarray) -> VideoFeatures:
        pixels = self.processor.preprocess(frames, return_tensors="pt")["pixel_values"]
        plan = replace(self.plan, reuse=key[2] if key[0] == "clip" else None)
        video = self.model.encode_video(pixels.to(self.model.device), plan=plan)
        spent, whole = self.model.last_tower_flops
        self.tower_share[key] = spent / whole
        size = sum(t.nbytes for t in (video.features, video.shallow, video.deep, *video.extras.values()))
        if size <= self.room:
            self.room -= size
            self.kept[key] = video
        return video
