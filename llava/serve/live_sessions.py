"""Live sessions of the encoder's server: told apart by an id, no more than there is room for, each until it is idle."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from llava.chat.live import LiveSession
from llava.serve.client import ServerError
from llava.serve.encoder_pool import EncoderPool


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
