"""What the web page asks of the model: many visitors, one model, nobody's video mixed with another's."""

import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aot.visualize import draw
from aot.visualize.scene import thumbnail
from llava.chat.answer import Answer, ChatError, Loaded
from llava.chat.live import LiveSession, read_sent
from llava.chat.session import ChatSession
from llava.live_source import LiveSource
from llava.video import FrameStream, VideoError

DECODERS = 2  # at a time
FILMS = 4  # played at a time
TICK = 0.5  # seconds that a frame of a film is waited for, before it is looked whether the visitor is still there
NO_LIVE = (
    "Nothing is watched, or it was forgotten since no frame and no question came for {:g} s; start the camera or give "
    "a film."
)
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
    last question about this video was answered. live: in the place of a video, what goes on. film: its path while one
    is played. told: what was to be said about it last.
    """

    session: ChatSession
    asked: float | None = None
    live: LiveSession | None = None
    film: str | None = None
    told: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    seen: float = field(default_factory=time.monotonic)

    @property
    def empty(self) -> bool:
        """Is there nothing to ask about?"""
        return self.session.loaded is None and self.live is None


class Worker:
    """Answers visitors, who are told apart by a key. Safe to call from many threads.

    The model is used by one thread at a time, because its settings (`config.aot`) belong to the call under way.
    What goes on, a camera or a film, has a key and a place of its own. folder: where its pictures lie for a moment.
    Everything raises ChatError, VideoError or AOTError (all ValueError) with one sentence for that visitor.
    """

    def __init__(self, session: ChatSession, limits: Limits | None = None, *, folder: Path | None = None):
        self.limits = limits or Limits()
        self._folder = folder or Path(tempfile.gettempdir())
        self._pattern = session
        self._visitors: dict[str, _Visitor] = {}
        self._book = threading.Lock()  # of the visitors
        self._model = threading.Lock()
        self._decoders = threading.BoundedSemaphore(DECODERS)
        self._films = threading.BoundedSemaphore(FILMS)
        self._pencil = threading.Lock()  # matplotlib's caches are not made for threads
        session.model.generation_config.max_time = self.limits.answer_seconds

    @property
    def visitors(self) -> int:
        """How many have a place."""
        return len(self._visitors)

    @property
    def fps(self) -> float | None:
        """Frames a second that the model is made for, None where it has no such number."""
        return self._pattern.sampling.fps

    def files(self) -> set[str]:
        """Paths of the videos that visitors look at."""
        with self._book:
            visitors = list(self._visitors.values())
        films = {visitor.film for visitor in visitors if visitor.film}
        return films | {visitor.session.loaded.path for visitor in visitors if visitor.session.loaded is not None}

    def look(self, key: str, path: str) -> Loaded:
        """Reads and encodes a visitor's video; one that is refused leaves the earlier one in place."""
        self._check_size(Path(path).stat().st_size)
        with self._visiting(key, new=True) as visitor:
            started = time.perf_counter()
            with self._turn(self._decoders), self._open(visitor.session, path) as frames:
                video = frames.read()
            decode_ms = 1e3 * (time.perf_counter() - started)
            with self._turn(self._model):
                loaded = visitor.session.encode(path, video, decode_ms=decode_ms)
            # small frames are enough for pictures, and cost little memory
            loaded.video = replace(video, frames=np.stack([thumbnail(frame) for frame in video.frames]))
            visitor.asked = None
            return loaded

    def ask(self, key: str, question: str, retention: float) -> Comparison:
        """The answers with all tokens and with a share of them; every question is asked afresh."""
        self._check_length(question)
        with self._visiting(key) as visitor:
            session = visitor.session
            with session.uncompressed():
                whole = self._answer(session, question)
            session.set_retention(retention)
            reduced = whole if session.compression is None else self._answer(session, question)
            visitor.asked = retention
            return Comparison(whole, reduced, self._draw(session, retention))

    def picture(self, key: str, retention: float) -> tuple[Any, float | None]:
        """What would be kept of the visitor's video, and at which retention the last question about it was answered."""
        with self._visiting(key) as visitor:
            return self._draw(visitor.session, retention), visitor.asked

    def push(self, key: str | None, picture: bytes) -> LiveSession:
        """A JPEG picture of a visitor's camera, seen now; it ends a film."""
        self._check_size(len(picture))
        with self._visiting(key, new=True, live=True) as visitor:
            live = self._begin() if visitor.live is None or visitor.film else visitor.live
            with self._turn(self._decoders):
                limits = {"ending": ".jpg", "time_limit": self.limits.decode_seconds}
                frames = read_sent(live.session, picture, self._folder, **limits).frames
            with self._turn(self._model):
                live.push(frames)
            if live is not visitor.live:
                visitor.live, visitor.film, visitor.told = live, None, ""
        return live

    def play(self, key: str | None, path: str) -> LiveSession:
        """Begins to watch a film, at its own pace, in a thread; the earlier one or the camera is forgotten."""
        self._check_size(Path(path).stat().st_size)
        with self._visiting(key, new=True, live=True) as visitor:
            with self._turn(self._decoders), self._open(visitor.session, path):
                pass  # a film that is refused is refused now
            live = self._begin()
            if not self._films.acquire(blocking=False):
                raise ChatError(f"{FILMS} films are playing, which is all there is room for; try again in a minute.")
            visitor.live, visitor.film, visitor.told = live, path, ""
        threading.Thread(target=self._play, args=(key, visitor, live, path), daemon=True).start()
        return live

    def watched(self, key: str | None) -> tuple[LiveSession, bool, str]:
        """(what a visitor watches, is a film being played?, what is to be said about it)."""
        with self._visiting(key, live=True) as visitor:
            return visitor.live, visitor.film is not None, visitor.told

    def ask_live(self, key: str | None, question: str) -> Answer:
        """The answer about what a visitor has watched so far."""
        self._check_length(question)
        with self._visiting(key, live=True) as visitor, self._turn(self._model):
            return visitor.live.ask(question)

    def leave(self, key: str | None) -> None:
        """Forgets a visitor and the video."""
        with self._book:
            self._visitors.pop(key, None)

    def _begin(self) -> LiveSession:
        with self._turn(self._model):  # whose settings it reads
            return LiveSession.beside(self._pattern)

    def _play(self, key: str, visitor: _Visitor, live: LiveSession, path: str) -> None:
        """Carries the frames of a film to a live session as they come, as long as the visitor watches it."""
        try:
            with LiveSource(path, fps=live.session.sampling.fps) as source:
                over = False
                while not over:
                    with self._book:
                        if visitor.live is not live or self._visitors.get(key) is not visitor:
                            break
                    over = source.over
                    if taken := source.take(TICK):
                        times, frames = zip(*taken, strict=True)
                        with self._turn(visitor.lock), self._turn(self._model):
                            live.push(frames, times)
                        visitor.seen = time.monotonic()
                    dropped = f"{source.dropped} frames came faster than they are seen." if source.dropped else ""
                    visitor.told = " ".join([*source.notes(), dropped]).strip() or visitor.told
        except ChatError as error:  # the model had no time for it
            visitor.told = str(error)
        finally:
            self._films.release()
            if visitor.live is live:
                visitor.film = None

    def _check_size(self, count: int) -> None:
        if count > 1e6 * self.limits.megabytes:
            raise VideoError(
                f"The file has {count / 1e6:.0f} MB and the limit is {self.limits.megabytes:g} MB; give a smaller one."
            )

    def _check_length(self, question: str) -> None:
        if len(question) > self.limits.question_letters:
            raise ChatError(
                f"The question has {len(question)} letters and the limit is {self.limits.question_letters}; shorten it."
            )

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

    def _open(self, session: ChatSession, path: str) -> AbstractContextManager[FrameStream]:
        limits = self.limits
        return session.open_video(
            path, time_limit=limits.decode_seconds, max_seconds=limits.video_seconds, max_frames=limits.video_frames
        )

    @contextmanager
    def _visiting(self, key: str | None, *, new: bool = False, live: bool = False) -> Iterator[_Visitor]:
        """A visitor who has given a video, or with live one who watches; nobody else has the visitor meanwhile.

        new: the video is given now, and whoever has no place gets one, if there is one and something comes of it.
        """
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
                    raise self._nothing(live=live)
                self._make_place(now)
                visitor = _Visitor(replace(self._pattern, prompts_kept=0, loaded=None, turns=[], answers=[]))
            visitor.seen = now
            self._visitors[key] = visitor  # the order is that of the last visit
        try:
            with self._turn(visitor.lock):
                if not new and visitor.empty:
                    raise self._nothing(live=live)
                yield visitor
        finally:
            visitor.seen = time.monotonic()
            if new and visitor.empty:
                self.leave(key)

    def _nothing(self, *, live: bool) -> ChatError:
        return ChatError(NO_LIVE.format(self.limits.idle_seconds) if live else NO_VIDEO)

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
