"""What the web page asks of the model: many visitors, one model, nobody's video mixed with another's."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aot.visualize import draw
from llava.chat.session import ChatSession
from llava.chat.types import Answer, ChatError, Loaded
from llava.video import Video, VideoError

FRAME_PIXELS = 320  # longer side of the frames that stay in memory for pictures
DECODERS = 2  # at a time
NO_VIDEO = "There is no video yet; drop one on the page first."
NO_SESSION = "This call belongs to no visitor; open the page, or send a session_hash of your own with every call."


@dataclass(frozen=True)
class Limits:
    """What one visitor may take: file size in MB, seconds and frames of video, seconds of its decoding and of each
    answer, length of a question, seconds to wait for the model; how many visitors have a place, for how many idle
    seconds, and after how many another may have it.
    """

    megabytes: float = 200.0
    video_seconds: float = 600.0
    video_frames: int = 100_000
    decode_seconds: float = 60.0
    answer_seconds: float = 60.0
    question_letters: int = 2000
    wait_seconds: float = 120.0
    visitors: int = 16
    idle_seconds: float = 1800.0
    active_seconds: float = 180.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ChatError(f"The limit {name} is {value}; give a number above 0.")


@dataclass(frozen=True)
class Comparison:
    """A question with all tokens and with the kept ones, and a picture (Pillow) of these."""

    whole: Answer
    reduced: Answer
    picture: Any


@dataclass
class _Visitor:
    """A session of one visitor; its lock keeps two clicks of the same person apart. asked: at which retention the
    last question about this video was answered.
    """

    session: ChatSession
    asked: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    seen: float = field(default_factory=time.monotonic)


class Worker:
    """Answers visitors, who are told apart by a key. Safe to call from many threads.

    The model is used by one thread at a time, because its settings (`config.aot`) belong to the call under way.
    Everything raises ChatError, VideoError or AOTError (all ValueError) with one sentence for that visitor.
    """

    def __init__(self, session: ChatSession, limits: Limits | None = None):
        self.limits = limits or Limits()
        self._pattern = session
        self._visitors: dict[str, _Visitor] = {}
        self._book = threading.Lock()  # of the visitors
        self._model = threading.Lock()
        self._decoders = threading.BoundedSemaphore(DECODERS)
        self._pencil = threading.Lock()  # matplotlib's caches are not made for threads
        session.model.generation_config.max_time = self.limits.answer_seconds

    @property
    def visitors(self) -> int:
        """How many have a place."""
        return len(self._visitors)

    def files(self) -> set[str]:
        """Paths of the videos that visitors look at."""
        with self._book:
            loaded = [visitor.session.loaded for visitor in self._visitors.values()]
        return {video.path for video in loaded if video is not None}

    def look(self, key: str, path: str) -> Loaded:
        """Reads and encodes a visitor's video; one that is refused leaves the earlier one in place."""
        size = Path(path).stat().st_size / 1e6
        if size > self.limits.megabytes:
            raise VideoError(
                f"The file has {size:.0f} MB and the limit is {self.limits.megabytes:g} MB; give a smaller one."
            )
        visitor = self._visit(key)
        try:
            with self._turn(visitor.lock):
                started = time.perf_counter()
                video = self._read(visitor.session, path)
                decode_ms = 1e3 * (time.perf_counter() - started)
                with self._turn(self._model):
                    loaded = visitor.session.encode(path, video, decode_ms=decode_ms)
                loaded.video, visitor.asked = _thumbnails(video), None
                return loaded
        finally:
            if visitor.session.loaded is None:  # a refused video takes no place
                self.leave(key)

    def ask(self, key: str, question: str, retention: float) -> Comparison:
        """The answers with all tokens and with a share of them; every question is asked afresh."""
        if len(question) > self.limits.question_letters:
            raise ChatError(
                f"The question has {len(question)} letters and the limit is {self.limits.question_letters}; shorten it."
            )
        with self._looking(key) as visitor:
            session = visitor.session
            with session.uncompressed():
                whole = self._answer(session, question)
            session.set_retention(retention)
            reduced = whole if session.compression is None else self._answer(session, question)
            visitor.asked = retention
            return Comparison(whole, reduced, self._draw(session, retention))

    def picture(self, key: str, retention: float) -> tuple[Any, float | None]:
        """What would be kept of the visitor's video, and at which retention the last question about it was answered."""
        with self._looking(key) as visitor:
            return self._draw(visitor.session, retention), visitor.asked

    def leave(self, key: str | None) -> None:
        """Forgets a visitor and the video."""
        with self._book:
            self._visitors.pop(key, None)

    def _answer(self, session: ChatSession, question: str) -> Answer:
        session.forget()
        with self._turn(self._model):
            return session.ask(question, remember=False)

    def _draw(self, session: ChatSession, retention: float) -> Any:
        session.set_retention(retention)
        with self._turn(self._model):
            compressed = session.traced()
        video = session.loaded.video
        with self._turn(self._pencil):
            return draw(compressed, video.frames, video.times, rows=("kept",))

    def _read(self, session: ChatSession, path: str) -> Video:
        limits = self.limits
        with (
            self._turn(self._decoders),
            session.open_video(
                path,
                time_limit=limits.decode_seconds,
                max_seconds=limits.video_seconds,
                max_frames=limits.video_frames,
            ) as frames,
        ):
            return frames.read()

    @contextmanager
    def _looking(self, key: str | None) -> Iterator[_Visitor]:
        """A visitor who has given a video."""
        visitor = self._visit(key, new=False)
        with self._turn(visitor.lock):
            if visitor.session.loaded is None:
                raise ChatError(NO_VIDEO)
            yield visitor
            visitor.seen = time.monotonic()

    def _visit(self, key: str | None, *, new: bool = True) -> _Visitor:
        """The visitor of this key. new: whoever has no place gets one, if there is one."""
        if not key:
            raise ChatError(NO_SESSION)
        now = time.monotonic()
        with self._book:
            for other, visitor in list(self._visitors.items()):
                if now - visitor.seen > self.limits.idle_seconds and not visitor.lock.locked():
                    del self._visitors[other]
            visitor = self._visitors.pop(key, None)
            if visitor is None:
                if not new:
                    raise ChatError(NO_VIDEO)
                self._make_place(now)
                visitor = _Visitor(replace(self._pattern, prompts_kept=0, loaded=None, turns=[], answers=[]))
            visitor.seen = now
            self._visitors[key] = visitor  # the order is that of the last visit
        return visitor

    def _make_place(self, now: float) -> None:
        """Forgets the one who was here the longest ago, unless all are active; ChatError when there is no place."""
        if len(self._visitors) < self.limits.visitors:
            return
        for key, visitor in self._visitors.items():
            if now - visitor.seen > self.limits.active_seconds and not visitor.lock.locked():
                del self._visitors[key]
                return
        raise ChatError(f"All {self.limits.visitors} places on this page are taken; try again in a few minutes.")

    @contextmanager
    def _turn(self, lock) -> Iterator[None]:
        """Holds a lock or semaphore, after waiting for it no longer than the limit."""
        if not lock.acquire(timeout=self.limits.wait_seconds):
            raise ChatError("Too many questions are being answered at the moment; try again in a minute.")
        try:
            yield
        finally:
            lock.release()


def _thumbnails(video: Video) -> Video:
    """The video with small frames: enough for pictures, and a visitor costs little memory."""
    small = []
    for frame in video.frames:
        picture = Image.fromarray(frame)
        picture.thumbnail((FRAME_PIXELS, FRAME_PIXELS), Image.Resampling.BICUBIC)
        small.append(np.asarray(picture))
    return replace(video, frames=np.stack(small))
