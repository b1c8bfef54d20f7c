"""Ways to run the tower's layers: as they are, compiled by torch.compile, or replayed as CUDA graphs."""

from collections.abc import Callable, Hashable

import torch

MODES = ("eager", "compile", "cuda_graphs")


def check_mode(mode: str, device: torch.device) -> None:
    """Raises ValueError, one sentence, for an unknown mode or one that cannot be had on this device.

    "compile" compiles a line of code to find out, which takes seconds.
    """
    if mode not in MODES:
        raise ValueError(f"Unknown tower mode {mode!r}; use one of: {', '.join(MODES)}.")
    if mode == "cuda_graphs" and device.type != "cuda":
        raise ValueError(f"Tower mode 'cuda_graphs' needs a CUDA device and the tower is on {device}; use 'eager'.")
    if mode == "compile":
        try:
            torch.compile(lambda x: torch.sin(x) + 1)(torch.ones(2, device=device))
        except (RuntimeError, OSError, ImportError) as error:  # a compiler or triton is missing
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200]
            raise ValueError(f"Tower mode 'compile' cannot be had here ({reason}); use 'eager'.") from error


class Replay:
    """Runs a function of one tensor as a CUDA graph, one graph for each shape and key.

    The function must wait for nothing and read nothing of the host. Results are copies, so that they outlive the next
    replay. most: graphs kept, each with its memory; the one made first goes first.
    """

    def __init__(self, work: Callable[..., list[torch.Tensor]], most: int = 4):
        self._work, self._most = work, most
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, torch.Tensor, list[torch.Tensor]]] = {}

    def __call__(self, given: torch.Tensor, *key: Hashable) -> list[torch.Tensor]:
        """work(given, *key); given: any tensor on a CUDA device."""
        place = (given.shape, given.dtype, *key)
        if place not in self._graphs:
            while len(self._graphs) >= self._most:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[place] = self._record(given, key)
        graph, entry, results = self._graphs[place]
        entry.copy_(given)
        graph.replay()
        return [result.clone() for result in results]

    @torch.inference_mode(False)  # the entry is written to in either mode later
    @torch.no_grad()
    def _record(self, given: torch.Tensor, key: tuple):
        entry = given.clone()
        side = torch.cuda.Stream(given.device)
        side.wait_stream(torch.cuda.current_stream(given.device))
        with torch.cuda.stream(side):  # kernels are chosen and compiled before the recording
            for _ in range(2):
                self._work(entry, *key)
        torch.cuda.current_stream(given.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # other threads may allocate meanwhile, as the one that lays pixels in page-locked memory does
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = self._work(entry, *key)
        return graph, entry, results
