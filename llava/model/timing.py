"""What a call costs: milliseconds per stage, taken without making the device wait, and peak memory."""

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Timing(Mapping[str, float]):
    """Milliseconds by stage.

    On CUDA a stage leaves two events behind, so that the host goes on at once; reading its figure waits for them.
    """

    def __init__(self, **spent: float):
        self._spent = dict(spent)
        self._pending: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}

    def __getitem__(self, name: str) -> float:
        for start, end in self._pending.pop(name, []):
            end.synchronize()
            self._spent[name] += start.elapsed_time(end)
        return self._spent[name]

    def __setitem__(self, name: str, milliseconds: float) -> None:
        self._pending.pop(name, None)
        self._spent[name] = milliseconds

    def __iter__(self) -> Iterator[str]:
        return iter(self._spent)

    def __len__(self) -> int:
        return len(self._spent)

    def __repr__(self) -> str:
        return f"Timing({dict(self)})"

    def add(self, other: "Timing", *names: str) -> None:
        """Adds what another call spent in these stages; nothing waits."""
        for name in names:
            self._spent[name] = self._spent.get(name, 0.0) + other._spent[name]
            self._pending.setdefault(name, []).extend(other._pending.get(name, []))

    @contextmanager
    def stage(self, name: str, device: torch.device) -> Iterator[None]:
        """Adds the milliseconds spent inside to stage `name`."""
        self._spent.setdefault(name, 0.0)
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream = torch.cuda.current_stream(device)
            start.record(stream)
            yield
            end.record(stream)
            self._pending.setdefault(name, []).append((start, end))
        else:
            begun = time.perf_counter()
            yield
            self._spent[name] += (time.perf_counter() - begun) * 1e3


def peak_memory() -> dict[str, float]:
    """MiB at the highest: "ram" of the process, and "gpu" where CUDA is in use."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and KiB on Linux
    peak = {"ram": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    return peak
