"""Which version of an operation runs: the float32 PyTorch reference or the Triton kernel."""

from functools import cache
from importlib.util import find_spec

import torch

from ..errors import AOTError

BACKENDS = ("auto", "reference", "triton")


def use_triton(backend: str, op: str, *tensors: torch.Tensor, limit: str | None = None, faster: bool = True) -> bool:
    """Whether the Triton kernel of `op` runs on these tensors.

    backend: "auto" takes it on a GPU where it can run, "reference" never, "triton" always. limit: why the
    kernel cannot take these sizes or settings, None when it can. faster: whether it is worth taking where it can run,
    which "auto" alone asks. Raises AOTError for an unknown backend, and
    for "triton" where the kernel cannot run.
    """
    if backend not in BACKENDS:
        raise AOTError(f"Unknown backend {backend!r}; use one of: {', '.join(BACKENDS)}.")
    if backend == "reference" or (backend == "auto" and not tensors[0].is_cuda):
        return False
    if backend == "auto" and not faster:
        return False
    reason = _obstacle(tensors) or limit
    if reason and backend == "triton":
        raise AOTError(f"The triton kernel of {op} cannot run: {reason}; use backend='auto' or 'reference'.")
    return reason is None


def _obstacle(tensors: tuple[torch.Tensor, ...]) -> str | None:
    if not _installed():
        return "triton is not installed"
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return "it takes no float64"
    if not all(tensor.is_cuda for tensor in tensors):
        return None if _interpreted() else f"it needs tensors on a GPU, got {tensors[0].device}"
    if torch.version.hip is not None or _capability(tensors[0].device) < (8, 0):
        return "it needs an NVIDIA GPU of compute capability 8.0 or newer"
    return None


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _interpreted() -> bool:
    """Whether this process runs kernels in triton's interpreter, which takes tensors of any device."""
    from triton import JITFunction

    from .kernels.sinkhorn import sinkhorn_kernel

    return not isinstance(sinkhorn_kernel, JITFunction)
