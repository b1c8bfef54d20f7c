"""Peak memory of this process."""

import resource
import sys

import torch


def peak_memory() -> dict[str, float]:
    """MiB at the highest: "ram" of the process, and "gpu" where CUDA is in use."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and KiB on Linux
    peak = {"ram": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    return peak
