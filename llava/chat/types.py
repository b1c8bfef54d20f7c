"""What a chat holds and says: the video, the images, an answer and what it cost."""

from dataclasses import dataclass

import torch

from aot import CompressedVideo
from llava.model.compression import TowerFlops
from llava.video import FrameStream, Video


class ChatError(ValueError):
    """Something the person can put right; the text is one sentence that says how."""


@dataclass(frozen=True)
class Tokens:
    """Visual tokens and, counted apart, newline tokens of one video in the language model."""

    visual: int
    newline: int


@dataclass(frozen=True)
class Answer:
    """An answer and what it cost.

    settings: AOTConfig.to_dict() or None (no compression). timings: milliseconds of decode and tower (paid
    once a video; of a live one the tower so far and no decode), compress, first_token (from the question to the first
    token) and total. peak_memory: MiB.
    bound: what decided how many tokens are kept, as in `AOTConfig.bound`. prefilled: tokens of the prompt that the
    language model read for it, those aside that it had read for an earlier question. tower_flops: counted, paid once a
    video; None of a model of transformers. until: seconds of the newest frame.
    """

    question: str
    text: str
    frames: int
    before: Tokens
    after: Tokens
    settings: dict | None
    timings: dict[str, float]
    peak_memory: dict[str, float]
    new_tokens: int
    stopped: bool = False
    bound: str = "all"
    prefilled: int = 0
    image_tokens: int = 0  # of the images beside the video, which are never reduced
    tower_flops: TowerFlops | None = None
    until: float | None = None

    @property
    def retention(self) -> float:
        """Share of the visual tokens that reached the language model."""
        return self.after.visual / self.before.visual if self.before.visual else 1.0


@dataclass(frozen=True)
class Picture:
    """An image of the conversation. pixels: (3, S, S) or (tiles, 3, S, S). size: (width, height)."""

    path: str
    pixels: torch.Tensor
    size: tuple[int, int]
    tokens: int


@dataclass
class Loaded:
    """A video that has been decoded and encoded.

    features: `VideoFeatures`, or the `CompressedVideo` of one setting when it was compressed while it was read.
    video: of the latter the `FrameStream` that is over, which knows the times and holds no frames; a cached one, which
    was on the disk, holds none either.
    """

    path: str
    video: Video | FrameStream
    features: object
    before: Tokens
    timings: dict[str, float]
    tower_flops: TowerFlops | None = None
    cached: bool = False

    @property
    def frames(self) -> int:
        """How many the model looked at."""
        return self.features.frames if self.streamed else len(self.video.times)

    @property
    def streamed(self) -> bool:
        """Was the video compressed while it was read?"""
        return isinstance(self.features, CompressedVideo)
