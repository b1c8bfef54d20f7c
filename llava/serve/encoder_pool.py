"""Many requests, a few decoders, one model: what nobody waits for is not done, and what many want is done once.

Live sessions are told apart by an id here, no more than there is room for, each until it is idle.
"""

import asyncio
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from llava.chat.live import LiveSession
from llava.chat.prompt import Message
from llava.serve.client import ServerError
from llava.serve.encoder import EncodedVideo, PromptEncoder
from llava.utils import scratch_folder
from llava.video import Video


class EncoderPool:
    """A `PromptEncoder` for an event loop. decoders: at a time. remember: videos whose tokens are kept."""

    def __init__(self, encoder: PromptEncoder, *, decoders: int, remember: int):
        self.encoder, self.seen = encoder, SingleFlight(remember)
        self._decoding = ThreadPoolExecutor(decoders, "decoding")
        self._model = ThreadPoolExecutor(1, "model")  # its settings belong to one thread

    @contextmanager
    def running(self) -> Iterator[None]:
        """Files lie in a folder of their own meanwhile."""
        with ExitStack() as stack:
            self.folder = stack.enter_context(scratch_folder("aot-encoder"))
            for pool in (self._decoding, self._model):
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            yield

    async def embed(self, turns: list[Message], files: dict[str, bytes], *, new_tokens: int) -> torch.Tensor:
        """(L, D) of the whole prompt. files: by the keys of the turns; each is dropped once it is encoded.

        Raises what the encoder raises, about the length before anything is decoded.
        """
        seen: dict[str, EncodedVideo] = {}
        check = partial(self.encoder.prompt, turns, seen, new_tokens=new_tokens)
        await asyncio.to_thread(check)
        while files:
            key, data = files.popitem()
            seen[key] = await self.seen.get(key, partial(self._encode, data))
            await asyncio.to_thread(check)
        return await self.on_model(partial(self.encoder.embed, turns, seen, new_tokens=new_tokens))

    async def on_model(self, work: Callable[[], Any]) -> Any:
        """What `work` gives, done in the model's thread, to which live sessions belong."""
        return await _in(self._model, work)

    async def push_live(self, live: LiveSession, data: bytes, ending: str, seconds: Callable[[], float]) -> None:
        """The frames of a picture or segment, as of `PromptEncoder.read`. seconds: gives the time of the first."""
        video = await self._read(data, session=live.session, ending=ending)
        await self.on_model(lambda: live.push(video.frames, seconds() + video.times))

    async def _encode(self, data: bytes) -> EncodedVideo:
        """A video's tokens. Cancelled, what has not begun does not begin."""
        video = await self._read(data)
        return await self.on_model(partial(self.encoder.encode, video))

    async def _read(self, data: bytes, **settings) -> Video:
        """The frames of a file; settings: of `PromptEncoder.read`. Cancelled, the decoder is ended."""
        stopped = threading.Event()
        try:
            return await _in(self._decoding, partial(self.encoder.read, data, self.folder, stopped, **settings))
        except asyncio.CancelledError:
            stopped.set()
            raise


async def _in(pool: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, work)


@dataclass
class _Running:
    task: asyncio.Task
    waiting: int = 0


class SingleFlight:
    """Results by key: work that many ask for at the same time is done once.

    The last `remember` results are kept, by when they were asked for.
    """

    def __init__(self, remember: int):
        self.remember = remember
        self._done: OrderedDict[str, Any] = OrderedDict()
        self._running: dict[str, _Running] = {}

    async def get(self, key: str, work: Callable[[], Coroutine]) -> Any:
        """The result of `work`, which runs once for all who ask meanwhile and is cancelled when all of them are."""
        if key in self._done:
            self._done.move_to_end(key)
            return self._done[key]
        if key not in self._running:
            self._running[key] = _Running(asyncio.create_task(self._run(key, work)))
        running = self._running[key]
        running.waiting += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.waiting -= 1
            if not running.waiting and not running.task.done():
                running.task.cancel()
                del self._running[key]  # whoever asks from now on starts anew

    async def _run(self, key: str, work: Callable[[], Coroutine]) -> Any:
        try:
            result = await work()
        finally:
            running = self._running.get(key)  # another one's where this one was given up
            if running is not None and running.task is asyncio.current_task():
                del self._running[key]
        self._done[key] = result
        while len(self._done) > self.remember:
            self._done.popitem(last=False)
        return result


@dataclass
class OpenSession:
    """begun: when, on the monotonic clock. turn: requests about it are worked on one after another; so many wait."""

    live: LiveSession | None = None
    begun: float = field(default_factory=time.monotonic)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    end: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """Seconds of a frame that comes now: since the beginning, and not before the newest frame."""
        return max(time.monotonic() - self.begun, self.live.until or 0.0)


class LiveSessions:
    """Live sessions by id, at most `most`; one ends by itself after `idle` seconds without a request about it."""

    def __init__(self, encoding: EncoderPool, *, most: int, idle: float):
        self.encoding, self.most, self.idle = encoding, most, idle
        self._open: dict[str, OpenSession] = {}

    async def begin(self) -> tuple[str, OpenSession]:
        """A new session and its id. ServerError (503) when there are enough of them."""
        if len(self._open) >= self.most:
            raise ServerError(f"All {self.most} live sessions are in use; delete one, or try again later.", status=503)
        key = secrets.token_hex(16)
        self._open[key] = opened = OpenSession()  # takes the place at once
        try:
            opened.live = await self.encoding.on_model(partial(LiveSession.beside, self.encoding.encoder.session))
        finally:
            if opened.live is None:
                self.delete(key)
        self._rest(key)
        return key, opened

    def find(self, key: str) -> OpenSession:
        """ServerError (404) where there is none of this id, or no longer."""
        if (opened := self._open.get(key)) is None:
            raise ServerError(
                f"There is no live session of this id; one ends after {self.idle:g} seconds without a request. "
                "Begin another with POST /v1/live.",
                status=404,
            )
        return opened

    @asynccontextmanager
    async def use(self, key: str) -> AsyncIterator[OpenSession]:
        """The session of an id, for one request at a time; it does not end meanwhile, unless it is deleted."""
        opened = self.find(key)
        opened.waiting += 1
        if opened.end is not None:
            opened.end.cancel()
        try:
            async with opened.turn:
                yield self.find(key)
        finally:
            opened.waiting -= 1
            if not opened.waiting and key in self._open:
                self._rest(key)

    def delete(self, key: str) -> None:
        """Ends a session. ServerError as in `find`."""
        opened = self.find(key)
        if opened.end is not None:
            opened.end.cancel()
        del self._open[key]

    def _rest(self, key: str) -> None:
        """Ends it when it has been idle for long enough from now on."""
        self._open[key].end = asyncio.get_running_loop().call_later(self.idle, self.delete, key)
