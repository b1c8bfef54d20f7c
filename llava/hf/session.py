"""The chat on transformers' own video models: `generate` of the model itself, reduced by `aot.apply`."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import aot
from aot import AOTConfig, CompressedVideo
from llava.chat.answer import ChatError, Loaded, Picture, TextStream, Tokens
from llava.chat.prompt import PromptStyle
from llava.chat.prompt import Sampling as ChatSampling
from llava.chat.prompt_cache import ReadPrompt
from llava.chat.session import ChatSession
from llava.hf.checkpoint import Checkpoint
from llava.video import Video


@dataclass
class TransformersSession(ChatSession):
    """A `ChatSession` on a checkpoint of transformers. The model encodes the video when it reads it, so again where the
    language model cannot go on from an earlier question.
    """

    checkpoint: Checkpoint | None = None
    _less = "fewer or smaller frames"

    def __post_init__(self):
        self.sampling = ChatSampling(num_frames=0, fps=None, tell_times=False)  # the checkpoint's processor chooses
        self.prompt_style = PromptStyle()
        super().__post_init__()
        self._inputs: dict[str, Any] = {}
        self._applied: aot.Applied | None = None
        inner = self.model.model
        self._tower = inner.visual if hasattr(inner, "visual") else inner.vision_tower
        self._tower.register_forward_pre_hook(lambda *_: self._clock(started=True))
        self._tower.register_forward_hook(lambda *_: self._clock(started=False))
        self._since = 0.0
        self._apply()  # tells settings that do not fit before a video is read

    def _clock(self, *, started: bool) -> None:
        """Counts the tower's milliseconds for the video that is asked about."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        now = time.perf_counter()
        if started:
            self._since = now
        elif self.loaded is not None:
            self.loaded.timings["tower"] = 1e3 * (now - self._since)

    def _frame_choice(self) -> dict:
        return {"choose": self.checkpoint.processor.choose, "decoder": self.decoder}

    def _encode(self, path: str, video: Video, decode_ms: float) -> Loaded:
        """Only resizes; encoding is part of the answer."""
        started = time.perf_counter()
        pixels = self.checkpoint.processor.inputs(video)
        placeholders = self.checkpoint.processor.text(video, pixels, self.checkpoint.tokens)
        visual = placeholders.count(self.checkpoint.tokens.video)
        newlines = int(self.model.config.model_type == "llava_onevision")
        timings = {"decode": decode_ms, "tower": 0.0, "encode": 1e3 * (time.perf_counter() - started)}
        return Loaded(path, video, pixels, Tokens(visual - newlines, newlines), timings)

    def add_image(self, path: str) -> Picture:
        raise ChatError(f"{path} cannot be shown: images go to checkpoints in LLaVA's layout; ask about a video here.")

    @torch.inference_mode()
    def traced(self) -> CompressedVideo:
        if self.loaded is None:
            raise ChatError("There is no video to draw yet; give one first.")
        inputs = self._given("?")
        with aot.apply(self.model, config=self.compression or AOTConfig(retention=1.0)) as applied:
            return applied.trace(inputs)[0]

    @property
    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the frames that make a patch of time together, the first."""
        step = self.checkpoint.processor.settings.get("temporal_patch_size", 1)
        return self.loaded.video.frames[::step], self.loaded.video.times[::step]

    @property
    def tower_dtype(self) -> torch.dtype:
        return self.model.dtype

    def _given(self, question: str) -> dict[str, Any]:
        """What the model is given of the conversation with the open question."""
        said = [text for turn in self.turns for text in turn] + [question.strip()]
        messages = [
            {"role": ("user", "assistant")[number % 2], "content": [{"type": "text", "text": text}]}
            for number, text in enumerate(said)
        ]
        messages[0]["content"].insert(0, {"type": "video"})
        return self.checkpoint.inputs(self.checkpoint.prompt(messages), [self.loaded.video], [self.loaded.features])

    def _prompt(self, question: str) -> torch.Tensor:
        """(1, L) ids with all placeholders of the video."""
        self._inputs = self._given(question)
        return self._inputs["input_ids"]

    def _needed_tokens(self, prompt: int) -> int:
        visual = self.loaded.before.visual
        left = visual if self.compression is None else self.compression.budget(1, visual)
        return prompt - visual + left + self.max_new_tokens

    def _apply(self) -> None:
        if self.compression is None:
            aot.remove(self.model)
            self._applied = None
        else:
            self._applied = aot.apply(self.model, config=self.compression)

    @property
    def _visual_token(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.checkpoint.tokens.video)

    def _generate(self, ids: torch.Tensor, stream: TextStream, read: ReadPrompt) -> bool:
        self._apply()
        inputs, inner = dict(self._inputs), self.model.model
        if read.ids:  # the video is read; Qwen-VL keeps how its positions go on, others may have generated since
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            inner.rope_deltas = read.rope_deltas
        elif self._applied is None:
            inputs.pop("video_frames", None)  # which only aot.apply knows
        with torch.inference_mode():
            stopped = self._answered(stream, read, **inputs)
        self.loaded.timings["compress"] = 0.0 if read.ids or self._applied is None else 1e3 * self._applied.seconds
        if not read.ids:
            read.rope_deltas = getattr(inner, "rope_deltas", None)
            read.video = None if self._applied is None else self._applied.last[0]
        return stopped
