"""Milliseconds per stage of one call."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def stage(timing: dict[str, float], name: str, device: torch.device) -> Iterator[None]:
    """Adds the milliseconds spent inside to ``timing[name]``; waits for the device only on CUDA."""
    _settle(device)
    start = time.perf_counter()
    yield
    _settle(device)
    timing[name] = timing.get(name, 0.0) + (time.perf_counter() - start) * 1e3


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
