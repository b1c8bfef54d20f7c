"""One dispatch for the operations that have fast versions.

backend: "auto" takes the fastest version that can run on the inputs, "reference" the float32 PyTorch one,
"triton" the GPU kernels; an explicit request that cannot be met raises AOTError.
"""

import torch

from ..errors import AOTError
from . import reference

BACKENDS = ("auto", "reference", "triton")


def resolve_backend(backend: str, op: str) -> str:
    """Name of the backend that will run `op`; "auto" falls back, an explicit choice does not."""
    if backend not in BACKENDS:
        raise AOTError(f"Unknown backend {backend!r}; use one of: {', '.join(BACKENDS)}.")
    if backend == "triton":
        raise AOTError(f"No triton kernel for {op} in this version; use backend='auto' or 'reference'.")
    return "reference"


def received_attention(
    q: torch.Tensor, k: torch.Tensor, scale: float, *, chunk: int | None = None, backend: str = "auto"
) -> torch.Tensor:
    """Mean over heads, sum over queries of softmax(q kᵀ · scale)[:, j] (method section 1).

    q, k: (B, H, N, d) of any float dtype; returns (B, N) float32. No N x N map is kept.
    Raises AOTError for an unknown or unavailable backend, or for shapes that do not fit.
    """
    if q.dim() != 4 or k.dim() != 4 or q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        shapes = f"{tuple(q.shape)} and {tuple(k.shape)}"
        raise AOTError(f"q and k must be (B, H, N, d) with equal B, H and d; got {shapes}.")
    resolve_backend(backend, "received_attention")
    return reference.received_attention(q, k, scale, chunk=chunk)
