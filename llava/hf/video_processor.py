"""What transformers' video processors do between a file and a model, without torchvision.

A processor class of this module has the defaults of transformers' class of the family, and a checkpoint's own settings
come from its files. It says which frames to read, makes pixels of them, and what text stands for the video in a prompt.
Resizing is the operation that torchvision calls on uint8 frames.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from llava.video import Video

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class ProcessorError(ValueError):
    """A checkpoint's processor or a choice of frames and pixels that cannot be used; the text says what to do."""


@dataclass(frozen=True)
class Sampling:
    """How much of a video a person lets the model see; None leaves it to the processor.

    num_frames: this many frames, or with fps at most. fps: frames a second. max_pixels: of a frame. total_tokens:
    visual tokens of the whole video, before reduction.
    """

    num_frames: int | None = None
    fps: float | None = None
    max_pixels: int | None = None
    total_tokens: int | None = None


class VideoProcessor(ABC):
    """The base: frames of one size, each normalised."""

    defaults: ClassVar[dict[str, Any]] = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": 3}
    frames: ClassVar[int] = 32  # without another word
    any_size: ClassVar[bool] = False  # may frames have any size?

    def __init__(self, settings: Mapping[str, Any], config: Any, sampling: Sampling):
        self.settings = {**self.defaults, **{k: v for k, v in settings.items() if v is not None}}
        self.config, self.sampling = config, sampling
        for name in ("num_frames", "fps", "max_pixels", "total_tokens"):
            value = getattr(sampling, name)
            if value is not None and not value > 0:
                raise ProcessorError(f"{name} is {value}; it must be more than 0.")
            if value is not None and name in ("max_pixels", "total_tokens") and not self.any_size:
                raise ProcessorError(
                    f"{name} is for models whose frames have any size; this one reads frames of one size, so give "
                    "num_frames or fps instead."
                )

    def choose(self, times: np.ndarray, rate: float) -> np.ndarray:
        """Indices of the frames to read. times: (N,) seconds of all; rate: of them a second."""
        total, wanted = len(times), self.sampling.num_frames or self.frames
        if self.sampling.fps is not None:
            count = max(1, int(total / rate * self.sampling.fps))
            wanted = min(count, wanted) if self.sampling.num_frames else count
        return self.spread(total, min(wanted, total))

    def spread(self, total: int, count: int) -> np.ndarray:
        """`count` of `total` frames, evenly."""
        return np.arange(0, total, total / count).astype(int)[:count]

    def pixels(self, frames: np.ndarray) -> torch.Tensor:
        """(T, 3, H, W) of frames (T, H, W, 3) uint8."""
        images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        return self.normalised(self.resized(images))

    def resized(self, images: torch.Tensor) -> torch.Tensor:
        size, (height, width) = self.settings["size"], images.shape[-2:]
        if "shortest_edge" in size:
            edge, shorter = size["shortest_edge"], min(height, width)
            # the longer side is cut off to whole pixels, as transformers does
            sides = (edge if side == shorter else int(edge / shorter * side) for side in (height, width))
            images = self.resize(images, *sides)
        else:
            images = self.resize(images, size["height"], size["width"])
        crop = self.settings.get("crop_size") if self.settings.get("do_center_crop") else None
        if crop is None:
            return images
        height, width = images.shape[-2:]
        top, left = (height - crop["height"]) // 2, (width - crop["width"]) // 2
        return images[..., top : top + crop["height"], left : left + crop["width"]]

    def resize(self, images: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(T, 3, height, width) uint8."""
        if images.shape[-2:] == (height, width):
            return images
        mode = _RESAMPLING.get(self.settings["resample"])
        if mode is None:
            raise ProcessorError(
                f"The checkpoint resizes by method {self.settings['resample']}; only 2 and 3 are known."
            )
        return F.interpolate(images, size=(height, width), mode=mode, antialias=True)

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """float32, rescaled and normalised in one step as transformers does."""
        factor = self.settings.get("rescale_factor", 1 / 255)
        mean, std = (torch.tensor(self.settings[f"image_{name}"]).view(3, 1, 1) / factor for name in ("mean", "std"))
        return (images.float() - mean) / std

    def inputs(self, video: Video) -> dict[str, Any]:
        """What the model is given of a video, a batch of one."""
        return {"pixel_values_videos": self.pixels(video.frames)[None]}

    def joined(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The inputs of videos and images, in the order of the prompt, as one call's.

        Raises ProcessorError where they do not go together.
        """
        sizes = {one["pixel_values_videos"].shape[1:] for one in inputs if "pixel_values_videos" in one}
        if len(sizes) > 1:
            raise ProcessorError("Videos of one question need equally many frames for this model; give num_frames.")
        names = dict.fromkeys(name for one in inputs for name in one)
        return {name: torch.cat([one[name] for one in inputs if name in one]) for name in names}

    @abstractmethod
    def text(self, video: Video, inputs: Mapping[str, Any], tokens: "Tokens") -> str:
        """What stands for the video in the prompt."""

    def image_text(self, inputs: Mapping[str, Any], tokens: "Tokens") -> str:
        """What stands for an image in the prompt; inputs: what the model is given of it."""
        raise ProcessorError("Images are shown to Qwen-VL and InternVL; ask this model about a video.")


@dataclass(frozen=True)
class Tokens:
    """Names of the tokens of a video and of an image, and of those around either."""

    video: str
    start: str = ""
    end: str = ""
    image: str = ""


class LlavaNextVideo(VideoProcessor):
    defaults: ClassVar = {
        **VideoProcessor.defaults, "size": {"shortest_edge": 224}, "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    }  # fmt: skip

    def text(self, video: Video, inputs: Mapping[str, Any], tokens: Tokens) -> str:
        patch, (frames, _, height, width) = self.config.vision_config.patch_size, inputs["pixel_values_videos"][0].shape
        return tokens.video * ((height // patch) * (width // patch) // 4 * frames)


class LlavaOnevision(VideoProcessor):
    defaults: ClassVar = {**VideoProcessor.defaults, "size": {"height": 384, "width": 384}}

    def text(self, video: Video, inputs: Mapping[str, Any], tokens: Tokens) -> str:
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        return tokens.video * (len(video.frames) * math.ceil(side / 2) ** 2 + 1)


class InternVL(VideoProcessor):
    """Frames are images; `video_frames` tells aot.apply which."""

    defaults: ClassVar = {**VideoProcessor.defaults, "size": {"height": 384, "width": 384}}

    def spread(self, total: int, count: int) -> np.ndarray:
        """From the middle of each part, unless the checkpoint says otherwise."""
        shift = self.settings.get("initial_shift", True)
        shift = total / count / 2 if shift is True else float(shift)
        return np.arange(shift, total, total / count).astype(int)[:count]

    def inputs(self, video: Video) -> dict[str, Any]:
        pixels = self.pixels(video.frames)
        return {"pixel_values": pixels, "video_frames": [range(len(pixels))]}

    def joined(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        ends = [0, *accumulate(len(one["pixel_values"]) for one in inputs)]
        spans = [range(start, end) for start, end in pairwise(ends)]
        frames = [span for one, span in zip(inputs, spans, strict=True) if "video_frames" in one]
        return {"pixel_values": torch.cat([one["pixel_values"] for one in inputs]), "video_frames": frames}

    @property
    def tile(self) -> int:
        """Tokens of a frame, or of a tile of an image."""
        config = self.config
        (height, width), (patch_height, patch_width) = config.vision_config.image_size, config.vision_config.patch_size
        return int((height // patch_height) * (width // patch_width) * config.downsample_ratio**2)

    def text(self, video: Video, inputs: Mapping[str, Any], tokens: Tokens) -> str:
        frame = tokens.start + tokens.video * self.tile + tokens.end
        return "\n".join(f"Frame{number}: {frame}" for number in range(1, len(video.frames) + 1))

    def image_text(self, inputs: Mapping[str, Any], tokens: Tokens) -> str:
        return tokens.start + tokens.image * (self.tile * len(inputs["pixel_values"])) + tokens.end


class Qwen2VL(VideoProcessor):
    """Qwen2-VL and Qwen2.5-VL: frames of any size, two to a patch of time."""

    defaults: ClassVar = {
        **VideoProcessor.defaults, "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "min_frames": 4,
        "max_frames": 768, "fps": 2.0, "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768},
    }  # fmt: skip
    any_size: ClassVar = True

    @property
    def factor(self) -> int:
        """Pixels of a token's side."""
        return self.settings["patch_size"] * self.settings["merge_size"]

    @property
    def size(self) -> tuple[int, int]:
        """Least and most pixels, in the processor's way of counting."""
        size = {**self.defaults["size"], **self.settings["size"]}
        least, most = self.settings.get("min_pixels"), self.settings.get("max_pixels")
        return least or size["shortest_edge"], most or size["longest_edge"]

    def choose(self, times: np.ndarray, rate: float) -> np.ndarray:
        total, step = len(times), self.settings["temporal_patch_size"]
        count = self._count(total, rate)
        return self.spread(total, max(1, min(count // step * step or count, total)))

    def _count(self, total: int, rate: float) -> int:
        """Frames to read of `total` at `rate` a second, before they are made whole patches of time."""
        most = self.sampling.num_frames or self.settings["max_frames"]
        if self.sampling.num_frames is not None and self.sampling.fps is None:
            step = self.settings["temporal_patch_size"]
            return min(max(1, round(most / step)) * step, total)
        fps = self.sampling.fps or self.settings["fps"]
        return int(min(max(total / rate * fps, self.settings["min_frames"]), most, total))

    def resized(self, images: torch.Tensor) -> torch.Tensor:
        return self.resize(images, *self.smart_size(len(images), *images.shape[-2:]))

    def smart_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) in whole tokens, near the frame's own shape, between the least and the most pixels."""
        least, most = self.size
        if self.sampling.max_pixels is not None:
            most = self.sampling.max_pixels
        if self.sampling.total_tokens is not None:
            share = self.sampling.total_tokens * self.settings["temporal_patch_size"] / frames
            most = min(most, int(share * self.factor**2))
        return _smart_size(height, width, 1, self.factor, min(least, most), most)

    def inputs(self, video: Video) -> dict[str, Any]:
        step, patch, merge = (self.settings[f"{name}_size"] for name in ("temporal_patch", "patch", "merge"))
        pixels = self.pixels(video.frames)
        if missing := -len(pixels) % step:
            pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
        frames, height, width = len(pixels) // step, pixels.shape[-2] // patch, pixels.shape[-1] // patch
        # (t, step, c, h/merge, merge, patch, w/merge, merge, patch): blocks of merge·merge patches, one after another
        blocks = pixels.view(frames, step, 3, height // merge, merge, patch, width // merge, merge, patch)
        patches = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(frames * height * width, -1)
        return {"pixel_values_videos": patches, "video_grid_thw": torch.tensor([[frames, height, width]])}

    def text(self, video: Video, inputs: Mapping[str, Any], tokens: Tokens) -> str:
        count = int(inputs["video_grid_thw"][0].prod()) // self.settings["merge_size"] ** 2
        return tokens.start + tokens.video * count + tokens.end

    def image_text(self, inputs: Mapping[str, Any], tokens: Tokens) -> str:
        count = int(inputs["image_grid_thw"][0].prod()) // self.settings["merge_size"] ** 2
        return tokens.start + tokens.image * count + tokens.end


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: the seconds between two patches of time as well."""

    def inputs(self, video: Video) -> dict[str, Any]:
        seconds = self.settings["temporal_patch_size"] * video.total_frames / video.rate / len(video.frames)
        return {**super().inputs(video), "second_per_grid_ts": torch.tensor([seconds])}


class Qwen3VL(Qwen2VL):
    """Qwen3-VL and Qwen3.5: a limit for all frames together, and the time before each patch of time."""

    defaults: ClassVar = {
        **Qwen2VL.defaults, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3, "patch_size": 16,
        "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768},
    }  # fmt: skip

    def choose(self, times: np.ndarray, rate: float) -> np.ndarray:
        return np.linspace(0, len(times) - 1, max(1, self._count(len(times), rate))).round().astype(int)

    def smart_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        least, most = self.size
        step = self.settings["temporal_patch_size"]
        if self.sampling.max_pixels is not None:
            most = min(most, self.sampling.max_pixels * frames)
        if self.sampling.total_tokens is not None:
            most = min(most, self.sampling.total_tokens * self.factor**2 * step)
        return _smart_size(height, width, max(frames, step), self.factor, min(least, most), most, step)

    def text(self, video: Video, inputs: Mapping[str, Any], tokens: Tokens) -> str:
        frames, height, width = inputs["video_grid_thw"][0].tolist()
        step, per_frame = self.settings["temporal_patch_size"], height * width // self.settings["merge_size"] ** 2
        times = np.concatenate([video.times, np.repeat(video.times[-1:], -len(video.times) % step)])
        run = tokens.start + tokens.video * per_frame + tokens.end
        # of a patch of time, the middle between its first and its last frame
        middle = (times[::step] + times[step - 1 :: step]) / 2
        return "".join(f"<{time:.1f} seconds>{run}" for time in middle[:frames])


def _smart_size(
    height: int, width: int, frames: int, factor: int, least: int, most: int, step: int = 1
) -> tuple[int, int]:
    """(height, width), multiples of `factor`, so that frames·height·width lies between least and most.

    step: to a multiple of which the frames are rounded.
    """
    if min(height, width) * 200 < max(height, width):
        raise ProcessorError(f"Frames of {width}x{height} are too narrow for this model; cut or pad them.")
    if frames > 1 and min(height, width) < factor:
        scale = factor / min(height, width)
        height, width = int(height * scale), int(width * scale)
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    rounded = round(frames / step) * step
    if rounded * rows * columns > most:
        shrink = math.sqrt(frames * height * width / most)
        return tuple(max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    if rounded * rows * columns < least:
        grow = math.sqrt(least / (frames * height * width))
        return tuple(math.ceil(side * grow / factor) * factor for side in (height, width))
    return rows, columns


PROCESSORS = {
    "llava_next_video": LlavaNextVideo, "llava_onevision": LlavaOnevision, "internvl": InternVL, "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen25VL, "qwen3_vl": Qwen3VL, "qwen3_vl_moe": Qwen3VL, "qwen3_5": Qwen3VL, "qwen3_5_moe": Qwen3VL,
}  # fmt: skip
