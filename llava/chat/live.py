"""A chat about a video that goes on: frames are pushed as they come and asked about at any time."""

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from aot import AOTConfig, LiveStream
from aot.clips import MAX_CLIP_TOKENS
from llava.chat.answer import Answer, ChatError, Loaded, Tokens
from llava.chat.session import ChatSession
from llava.model.llava_arch import LlavaMetaForCausalLM
from llava.model.long_video import pixel_chunks
from llava.video import Video, VideoError

NOW = MAX_CLIP_TOKENS  # newest frames whose times are known whatever becomes of them: an open clip has no more
FPS = 1.0  # frames a second, where the model has no number of its own


class LiveSession:
    """Frames in, answers out; at most max_tokens visual tokens are held, see `aot.LiveStream`.

    session: a model and its settings. Where they have no max_tokens, N is what the model's own number of frames take.
    frames: how many were pushed. until: seconds of the newest one, None before the first.
    Raises ChatError or AOTError for a model or settings that no live session can have.
    """

    def __init__(self, session: ChatSession):
        if not isinstance(session.model, LlavaMetaForCausalLM):
            raise ChatError("A live session needs a checkpoint in LLaVA's layout; name another with --model-path.")
        config = session.compression or AOTConfig(retention=1.0)
        if config.max_tokens is None:
            config = config.replace(max_tokens=session.model.uncompressed_count(session.sampling.num_frames)[0])
        session.compression = session.model.config.aot = config
        self.session, self.stream = session, LiveStream(config, **session.model.arrangement())
        self.frames, self._begun = 0, time.monotonic()
        self.until: float | None = None
        self._times: dict[int, float] = {}  # seconds by frame
        self._spent = {"tower": 0.0, "compress": 0.0}  # milliseconds so far; decoding is the source's own
        self._seen: Loaded | None = None

    @classmethod
    def beside(cls, session: ChatSession) -> "LiveSession":
        """One of several on a session's model and settings; of what `read_sent` reads, `fps` frames a second."""
        sampling = replace(session.sampling, fps=session.sampling.fps or FPS, by_change=False)
        return cls(replace(session, sampling=sampling, force_sample=False, prompts_kept=1, loaded=None))

    @torch.inference_mode()
    def push(self, frames: Sequence[np.ndarray] | np.ndarray, times: Sequence[float] | None = None) -> None:
        """Encodes further frames, a clip at a time.

        frames: (H, W, 3) uint8 each, of any size. times: seconds of each, which do not fall; None is now, from the
        start of the session on. Raises ChatError for other times, ValueError for other frames.
        """
        times = (
            [time.monotonic() - self._begun] * len(frames) if times is None else [float(seconds) for seconds in times]
        )
        known = times if self.until is None else [self.until, *times]
        if len(times) != len(frames) or not all(a <= b for a, b in zip(known, known[1:], strict=False)):
            raise ChatError("Every pushed frame has one time, and times do not fall; push frames in their order.")
        model = self.session.model
        model.config.aot = self.session.compression
        for pixels in pixel_chunks(frames, self.session.image_processor):
            video = model.encode_video(pixels.to(model.device))
            started = time.perf_counter()
            self._seen = None
            self.stream.push(video.features, video.shallow, video.deep, extras=video.extras)
            self._spent["compress"] += 1e3 * (time.perf_counter() - started)
            self._spent["tower"] += model.last_timing["tower"]
            self._times |= {self.frames + place: times.pop(0) for place in range(len(pixels))}
            self.frames += len(pixels)
            self.until = self._times[self.frames - 1]
        if len(self._times) > 2 * NOW + self.session.compression.max_tokens:
            held = {frame for part in self.stream.parts for frame in part.frame.tolist()}
            self._times = {f: s for f, s in self._times.items() if f in held or f >= self.frames - NOW}

    @torch.inference_mode()
    def look(self) -> Loaded:
        """What a question sees now: the same object until another frame comes. ChatError before the first one."""
        if self.until is None:
            raise ChatError("No frame has come yet; wait for one, or push some.")
        if self._seen is None:
            tokens = self.stream.video()
            shown = sorted({*tokens.frame.tolist(), self.frames - 1})
            times = np.array([self._times[frame] for frame in shown])
            none = np.empty((0, 0, 0, 3), np.uint8)
            video = Video(none, times, self.until, "live", self.frames, self.frames / max(self.until, 1e-3))
            before = Tokens(*self.session.model.uncompressed_count(self.frames))
            self._seen = Loaded("live", video, tokens, before, dict(self._spent))
        return self._seen

    def ask(self, question: str, *, on_text: Callable[[str], None] | None = None) -> Answer:
        """Answers about all that was pushed, up to `Answer.until`; on_text gets the text as it comes.

        A question stands alone: those before it were asked of another moment.
        """
        self.session.loaded = self.look()
        return self.session.ask(question, on_text=on_text, remember=False)


def read_sent(session: ChatSession, data: bytes, folder: Path, *, ending: str = "", **limits) -> Video:
    """The frames that a session's model looks at of a file that somebody sent, which lies in `folder` meanwhile.

    ending: ".jpg" or ".png" of a picture, which is a single frame. limits: more arguments of `open_video`, whose
    VideoError does not tell the file's name. Raises OSError where there is no room for it.
    """
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
        file = Path(place, f"0{ending}")
        file.write_bytes(data)
        try:
            with session.open_video(place if ending else str(file), **limits) as frames:  # pictures lie in folders
                return frames.read()
        except VideoError as error:
            kind = "the picture" if ending else "the video"
            told = re.sub(rf"(The picture )?{re.escape(place)}(/0(\.\w+)?)?", kind, str(error))
            raise VideoError(told[:1].upper() + told[1:]) from error
