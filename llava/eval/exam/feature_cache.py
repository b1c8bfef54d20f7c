"""Encoded clips: each is decoded and goes through the tower once for all settings of a run, or of all runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from aot import AOTConfig
from llava.eval.exam.settings import ExamSetting
from llava.model.compression import CapturePlan, VideoFeatures, capture_plan
from llava.video import load_video
from llava.video_cache import VideoCache

GREY = 127
ROOM = 4 * 2**30  # bytes of features kept; what is over is encoded again when it is needed


def shared_plan(tower, configs: Iterable[AOTConfig | None]) -> CapturePlan:
    """What the tower must capture for all of these settings together."""
    plans = [capture_plan(tower, config) for config in configs]
    received = {name: layer for plan in plans for name, layer in plan.received.items()}
    return CapturePlan(received, {name: layer for plan in plans for name, layer in plan.keys.items()})


class FeatureCache:
    """Features of the clips of an exam, made when they are first asked for.

    files: by clip number. frames: how many of a clip are looked at, by its number; the model's own where none is given.
    room: bytes of features that may be kept. disk: keeps those of clips for other runs, None for not at all.
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
        disk: VideoCache | None = None,
    ):
        self.model, self.processor, self.files, self.plan, self.room = model, processor, files, plan, room
        self.frames, self.disk = frames or {}, disk
        self.kept: dict[tuple, VideoFeatures] = {}

    def num_frames(self, number: int) -> int:
        return self.frames.get(number) or getattr(self.model.config, "mm_video_frames", 32)

    def under(self, setting: ExamSetting, number: int) -> VideoFeatures:
        """Features of a clip as a setting has it encoded."""
        if setting.blank:
            return self.blank(number)
        return self.clip(number, None if setting.config is None else setting.config.tower_reuse)

    def clip(self, number: int, reuse: float | None = None) -> VideoFeatures:
        """Features of a clip, encoded under `AOTConfig.tower_reuse`."""
        path, frames = str(self.files[number]), self.num_frames(number)
        return self._kept(("clip", number, reuse), lambda: self._clip(path, frames, reuse))

    def blank(self, number: int) -> VideoFeatures:
        """Features of grey frames, as many as of a clip, the same for all clips of this length."""
        frames, size = self.num_frames(number), self.model.get_vision_tower().image_size
        shape = (frames, size, size, 3)
        return self._kept(("blank", frames), lambda: self._encode(np.full(shape, GREY, np.uint8), self.plan))

    def _kept(self, key: tuple, make: Callable[[], VideoFeatures]) -> VideoFeatures:
        if key in self.kept:
            return self.kept[key]
        video = make()
        size = sum(values.nbytes for values in (video.features, *video.outputs.values()))
        if size <= self.room:
            self.room -= size
            self.kept[key] = video
        return video

    def _clip(self, path: str, num_frames: int, reuse: float | None) -> VideoFeatures:
        """From the disk, else decoded, encoded and kept there, unless the file changed meanwhile."""
        plan = replace(self.plan, reuse=reuse)
        if self.disk is None:
            return self._encode(load_video(path, num_frames=num_frames).frames, plan)
        asked = {"frames": num_frames, "captured": asdict(plan)}
        key = self.disk.key(path, **asked)
        if (found := self.disk.load(key, self.model.device)) is not None:
            return found[1]
        video = load_video(path, num_frames=num_frames)
        features = self._encode(video.frames, plan)
        if self.disk.key(path, **asked) == key:
            self.disk.save(key, path, video, features)
        return features

    @torch.inference_mode()
    def _encode(self, frames: np.ndarray, plan: CapturePlan) -> VideoFeatures:
        pixels = self.processor.preprocess(frames, return_tensors="pt")["pixel_values"]
        return self.model.encode_video(pixels.to(self.model.device), plan=plan)
