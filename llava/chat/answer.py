"""What a chat holds and says: video and images, an answer as it comes, and what it cost for people and programs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.generation.streamers import BaseStreamer

from aot import CompressedVideo
from llava.model.compression import TowerFlops
from llava.utils import versions
from llava.video import FrameStream, Video

if TYPE_CHECKING:
    from llava.chat.session import ChatSession


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


# a model's text must not steer the terminal: control characters go, line breaks and tabs stay
CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """The text without control characters."""
    return text.translate(CONTROL)


class TextStream(BaseStreamer):
    """Passes on the text of the new tokens as soon as it is certain; `first` is when the first one came."""

    def __init__(self, tokenizer, on_text: Callable[[str], None] | None = None):
        self.tokenizer, self.on_text = tokenizer, on_text
        self.tokens: list[int] = []
        self.shown = ""
        self.first: float | None = None
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt first (ignored), then each new token, (1,) or (1, 1)."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        if self.first is None:
            self.first = time.perf_counter()
        self.tokens.extend(value.flatten().tolist())
        text = self.text()
        if not text.endswith("\ufffd"):  # half of a character of several bytes
            self._show(text)

    def end(self) -> None:
        """Passes on what was held back."""
        self._show(self.text())

    def text(self) -> str:
        """The answer so far."""
        return printable(self.tokenizer.decode(self.tokens, skip_special_tokens=True)).lstrip()

    def _show(self, text: str) -> None:
        new = text[len(self.shown) :]
        if new:
            self.shown = text
            if self.on_text:
                self.on_text(new)


PACKAGES = ("aot-video", "torch", "transformers", "av", "decord", "flash-attn")


def frames(count: int) -> str:
    """A number of frames in words."""
    return f"{count} frame{'s' * (count != 1)}"


def stats(answer: Answer) -> list[str]:
    """Frames, tokens before and after, retention, milliseconds by stage, peak memory: a line's parts."""
    times = answer.timings
    memory = ", ".join(f"{mib:.0f} MiB {kind.upper()}" for kind, mib in answer.peak_memory.items())
    bound = f" ({answer.bound})" if answer.bound in ("max_tokens", "distortion") else ""
    newlines = f" (+{answer.after.newline} newline)" if answer.after.newline else ""
    flops = answer.tower_flops
    saved = f" ({100 * flops.spent / flops.whole:.0f} % of its FLOPs)" if flops and flops.spent < flops.whole else ""
    return [
        frames(answer.frames),
        *([f"images {answer.image_tokens} tokens"] if answer.image_tokens else []),
        f"{answer.before.visual} → {answer.after.visual} tokens{newlines}",
        f"retention {100 * answer.retention:.3g} %{bound}",
        *([f"decode {times['decode']:.0f} ms"] if "decode" in times else []),
        f"tower {times['tower']:.0f} ms{saved}",
        f"compression {times['compress']:.1f} ms",
        f"first token {times['first_token']:.0f} ms",
        f"peak {memory}",
    ]


def as_json(answer: Answer, session: "ChatSession", model_path: str) -> dict:
    """Everything about one answer, in plain JSON values."""
    loaded = session.loaded
    video = loaded and {
        "path": loaded.path,
        "frames": len(loaded.video.times),
        "streamed": loaded.streamed,
        "cached": loaded.cached,
        "times_s": [round(float(time), 3) for time in loaded.video.times],
        "duration_s": round(loaded.video.duration, 3),
        "decoder": loaded.video.decoder,
    }
    images = [{"path": image.path, "size": list(image.size), "tokens": image.tokens} for image in session.images]
    few_bits = getattr(session.model.config, "quantization_config", None)
    return {
        "question": answer.question,
        "answer": answer.text,
        "model": {
            "path": model_path,
            "device": str(session.model.device),
            "dtype": str(session.model.dtype),
            "tower_dtype": str(session.tower_dtype),
            **({} if few_bits is None else {"quantization": few_bits.to_dict()}),
        },
        "note": session.prompt_style.note,
        "video": video,
        **({"images": images} if images else {}),
        **cost(answer),
        "versions": versions(PACKAGES),
    }


def cost(answer: Answer) -> dict:
    """Settings, token counts, operations of the tower, timings and memory of one answer."""
    return {
        "settings": answer.settings,
        "tokens": {
            "before": _tokens(answer.before),
            "after": _tokens(answer.after),
            "answer": answer.new_tokens,
            "prefilled": answer.prefilled,
        },
        "retention": answer.retention,
        "bound": answer.bound,
        "tower_flops": answer.tower_flops and answer.tower_flops._asdict(),
        "timings_ms": {stage: round(ms, 3) for stage, ms in answer.timings.items()},
        "peak_memory_mib": {kind: round(mib, 1) for kind, mib in answer.peak_memory.items()},
    }


def _tokens(tokens: Tokens) -> dict[str, int]:
    return {"visual": tokens.visual, "newline": tokens.newline, "total": tokens.visual + tokens.newline}
