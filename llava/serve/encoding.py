"""Many requests, a few decoders, one model: what nobody waits for is not done, and what many want is done once."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from llava.serve.encoder import PromptEncoder, Seen, Turn
from llava.serve.scratch import scratch_folder
from llava.serve.shared import Shared


class Encoding:
    """A `PromptEncoder` for an event loop. decoders: at a time. remember: videos whose tokens are kept."""

    def __init__(self, encoder: PromptEncoder, *, decoders: int, remember: int):
        self.encoder, self.seen = encoder, Shared(remember)
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

    async def embed(self, turns: list[Turn], files: dict[str, bytes], *, new_tokens: int) -> torch.Tensor:
        """(L, D) of the whole prompt. files: by the keys of the turns; each is dropped once it is encoded.

        Raises what the encoder raises, about the length before anything is decoded.
        """
        seen: dict[str, Seen] = {}
        check = partial(self.encoder.prompt, turns, seen, new_tokens=new_tokens)
        await asyncio.to_thread(check)
        while files:
            key, data = files.popitem()
            seen[key] = await self.seen.get(key, partial(self._encode, data))
            await asyncio.to_thread(check)
        return await _in(self._model, partial(self.encoder.embed, turns, seen, new_tokens=new_tokens))

    async def _encode(self, data: bytes) -> Seen:
        """A video's tokens. Cancelled, what has not begun does not begin, and a decoder is ended."""
        stopped = threading.Event()
        try:
            video = await _in(self._decoding, partial(self.encoder.read, data, self.folder, stopped))
        except asyncio.CancelledError:
            stopped.set()
            raise
        return await _in(self._model, partial(self.encoder.encode, video))


async def _in(pool: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
