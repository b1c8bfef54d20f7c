"""Work that many ask for at the same time, done once."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any


@dataclass
class _Running:
    task: asyncio.Task
    waiting: int = 0


class Shared:
    """Results by key. The last `remember` of them are kept, by when they were asked for."""

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
        except Exception:
            del self._running[key]
            raise
        del self._running[key]
        self._done[key] = result
        while len(self._done) > self.remember:
            self._done.popitem(last=False)
        return result
