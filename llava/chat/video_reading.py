"""The way of a video to its features: from the cache, else decoded and encoded, or compressed while it is decoded."""

import re
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from aot import AOTConfig
from llava.chat.model_defaults import Sampling
from llava.chat.types import Loaded, Tokens
from llava.model.compression import capture_plan
from llava.model.long_video import Prefetcher, can_stream, compress_stream, pixel_chunks
from llava.video import FrameStream, Video, VideoError, load_video, open_video
from llava.video_cache import VideoCache

Progress = Callable[[str, int, int], None]  # (stage "decode" or "tower", done, total); total 0 when unknown


class VideoReading:
    """What a `ChatSession` does with a video before a question is asked; its fields are explained there."""

    model: torch.nn.Module
    image_processor: object
    compression: AOTConfig | None
    sampling: Sampling | None
    force_sample: bool
    decoder: str
    stream_above: int | None
    cache: VideoCache | None
    loaded: Loaded | None
    _base: AOTConfig

    def open_video(self, path: str, **limits) -> AbstractContextManager[FrameStream]:
        """The frames that the model looks at, one after another; limits: more arguments of `open_video`."""
        return open_video(path, **self._frame_choice(), **limits)

    def read_sent(self, data: bytes, folder: Path, *, ending: str = "", **limits) -> Video:
        """The frames that the model looks at of a file that somebody sent, which lies in `folder` meanwhile.

        ending: ".jpg" or ".png" of a picture, which is a single frame. limits: more arguments of `open_video`, whose
        VideoError does not tell the file's name. Raises OSError where there is no room for it.
        """
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
            file = Path(place, f"0{ending}")
            file.write_bytes(data)
            try:
                with self.open_video(place if ending else str(file), **limits) as frames:  # pictures lie in folders
                    return frames.read()
            except VideoError as error:
                kind = "the picture" if ending else "the video"
                told = re.sub(rf"(The picture )?{re.escape(place)}(/0(\.\w+)?)?", kind, str(error))
                raise VideoError(told[:1].upper() + told[1:]) from error

    def _load(self, path: str, progress: Progress | None = None) -> Loaded:
        """A video from the cache, else read and kept there, unless its file changed meanwhile."""
        if self.cache is None:
            return self._read(path, progress)
        started, may_stream = time.perf_counter(), self._may_stream
        keys = {streamed: self._cache_key(path, streamed) for streamed in ((True, False) if may_stream else (False,))}
        for streamed, key in keys.items():
            found = self.cache.load(key, self.model.device)
            if found is not None and (streamed or not may_stream or len(found[0].times) <= self.stream_above):
                self.model.reset_statistics()
                paid = {"decode": 1e3 * (time.perf_counter() - started), **({"compress": 0.0} if streamed else {})}
                return replace(self._loaded(path, *found, **paid), cached=True)
        loaded = self._read(path, progress)
        if self._cache_key(path, loaded.streamed) == keys[loaded.streamed]:
            self.cache.save(keys[loaded.streamed], path, loaded.video, loaded.features)
        return loaded

    @property
    def _may_stream(self) -> bool:
        """Is a video of as many frames as are asked for compressed while it is decoded?"""
        above = self.stream_above
        return above is not None and self.sampling.num_frames > above and can_stream(self.compression)

    def _cache_key(self, path: str, streamed: bool) -> str:
        """What a video's features depend on, or its kept tokens where it is streamed."""
        plan = capture_plan(self.model.get_vision_tower(), self._base)
        settings = self.compression.to_dict() if streamed else None
        return self.cache.key(path, frames=self._frame_choice(), captured=asdict(plan), settings=settings)

    def _read(self, path: str, progress: Progress | None = None) -> Loaded:
        """A video decoded and encoded, or compressed while it is decoded when it is longer than `stream_above`."""
        decoding = progress and partial(progress, "decode")
        started = time.perf_counter()
        if self._may_stream:
            with self.open_video(path, progress=decoding) as frames:
                if len(frames.times) > self.stream_above:
                    return self._compress_while_decoding(path, frames)
        video = load_video(path, progress=decoding, **self._frame_choice())
        decode_ms = 1e3 * (time.perf_counter() - started)
        if progress:
            progress("tower", 0, 0)
        return self._encode(path, video, decode_ms)

    def _frame_choice(self) -> dict:
        """Which frames the model looks at, as `load_video` and `open_video` are told."""
        return {
            "num_frames": self.sampling.num_frames,
            "fps": self.sampling.fps,
            "force_sample": self.force_sample,
            "decoder": self.decoder,
            "repeat": self.force_sample,
            "by_change": self.sampling.by_change,
        }

    @torch.inference_mode()
    def _encode(self, path: str, video: Video, decode_ms: float) -> Loaded:
        # attention is captured even while compression is off: /retention may turn it on for this video
        self.model.config.aot = self._base
        pixels = self.image_processor.resize(video.frames)
        features = self.model.encode_video(pixels.to(self.model.device))
        return self._loaded(path, video, features, decode=decode_ms)

    @torch.inference_mode()
    def _compress_while_decoding(self, path: str, frames: FrameStream) -> Loaded:
        self.model.config.aot = self.compression
        pinned = self.model.device.type == "cuda"
        with Prefetcher(pixel_chunks(frames, self.image_processor), frames.stop, pinned=pinned) as chunks:
            compressed = compress_stream(self.model, chunks, frames=len(frames.times))
        spent = self.model.last_timing
        return self._loaded(path, frames, compressed, decode=spent["wait"], compress=spent["compress"])

    def _loaded(self, path: str, video: Video | FrameStream, features, **timings: float) -> Loaded:
        timings["tower"] = self.model.last_timing["tower"]
        before = Tokens(*self.model.uncompressed_count(len(video.times)))
        return Loaded(path, video, features, before, timings, self.model.last_tower_flops)

    @property
    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames and times of the video, one for each frame of `traced`; one from the cache is decoded for it."""
        if self.loaded.cached:
            return load_video(self.loaded.path, **self._frame_choice()).frames, self.loaded.video.times
        return self.loaded.video.frames, self.loaded.video.times
