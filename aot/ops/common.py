"""What operations and methods share: reference or kernel, lengths of tokens, importance, ranks, groups of frames."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache, wraps
from importlib.util import find_spec

import torch
from torch._guards import detect_fake_mode

from ..errors import AOTError

BACKENDS = ("auto", "reference", "triton")
MIN_LENGTH = 1e-18  # below it float32 loses the squares of values; such a token counts as zeros


def use_triton(backend: str, op: str, *tensors: torch.Tensor, limit: str | None = None, faster: bool = True) -> bool:
    """Whether the Triton kernel of `op` runs on these tensors.

    backend: "auto" takes it on a GPU where it can run, "reference" never, "triton" always. limit: why the
    kernel cannot take these sizes or settings, None when it can. faster: whether it is worth taking where it can run,
    which "auto" alone asks. Raises AOTError for an unknown backend, and for "triton" where the kernel cannot run.
    """
    if backend not in BACKENDS:
        raise AOTError(f"Unknown backend {backend!r}; use one of: {', '.join(BACKENDS)}.")
    if backend == "reference" or (backend == "auto" and not tensors[0].is_cuda):
        return False
    if backend == "auto" and not faster:
        return False
    reason = _obstacle(tensors) or limit
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        reason = "it has no backward, and a gradient is wanted"
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


_capability = cache(torch.cuda.get_device_capability)


@cache
def _interpreted() -> bool:
    """Whether this process runs kernels in triton's interpreter, which takes tensors of any device."""
    from triton import JITFunction

    from .triton.sinkhorn import sinkhorn_kernel

    return not isinstance(sinkhorn_kernel, JITFunction)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Inside it operations keep the types of their inputs, whatever `torch.autocast` the caller is in."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device has none
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def remembered(make: Callable) -> Callable:
    """make, whose last 32 results are kept: tensors that follow from hashable arguments alone.

    They serve inference mode and others alike. Nothing is kept of fake tensors, by which programs are traced.
    """
    plain = torch.inference_mode(False)(make)
    kept = lru_cache(maxsize=32)(plain)

    @wraps(make)
    def get(*arguments, **named):
        return (kept if detect_fake_mode() is None else plain)(*arguments, **named)

    return get


def at_least_float32(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens in the type that sums of them are taken in: float64 stays, all others become float32."""
    return tokens if tokens.dtype == torch.float64 else tokens.float()


@torch.no_grad()
def inverse_length(tokens: torch.Tensor) -> torch.Tensor:
    """(...,) float32 of tokens (..., D): 1 / length, 0 below MIN_LENGTH: tokens of zeros have no direction."""
    exact = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(tokens, dim=-1, dtype=exact).float()
    return torch.where(norm > MIN_LENGTH, 1 / norm, 0.0)


@torch.no_grad()
def unit(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (..., D) scaled to length 1 in float32; those up to MIN_LENGTH become zeros. No gradient is taken."""
    tokens = tokens.float()
    norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    return tokens / norm.masked_fill(norm <= MIN_LENGTH, torch.inf)


def relative_importance(importance: torch.Tensor) -> torch.Tensor:
    """Importance (..., P) divided by its frame's mean; a frame without any is 1 everywhere."""
    tiny = torch.finfo(torch.float32).tiny  # 0 over 0 is 1; anything else stays what it is
    return (importance + tiny) / (importance.mean(dim=-1, keepdim=True) + tiny)


def rank_descending(values: torch.Tensor) -> torch.Tensor:
    """Rank of each entry along the last axis, 0 for the largest; ties go to the lower index."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(values.shape[-1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, ranks)


def true_indices(mask: torch.Tensor, count: int) -> torch.Tensor:
    """(..., count) ascending indices of the first True entries of the last axis, 0 beyond them; nothing waits."""
    # entry i of a row goes to place (True entries before it); False ones go to a place behind all, which is cut off
    place = torch.where(mask, mask.cumsum(dim=-1) - 1, count).clamp_max_(count)
    each = torch.arange(mask.shape[-1], device=mask.device).expand_as(place)
    return place.new_zeros(*mask.shape[:-1], count + 1).scatter_(-1, place, each)[..., :count]


def group_frames(tokens: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """(G, length·P, D) tokens of groups of `length` frames from starts (G,) on, out of tokens (T, P, D).

    A view when no group reaches beyond the end.
    """
    groups = starts.shape[0]
    if groups * length == tokens.shape[0]:
        return tokens.reshape(groups, -1, tokens.shape[2])
    frame = starts.unsqueeze(1) + torch.arange(length, device=starts.device)
    return tokens[frame.clamp_max(tokens.shape[0] - 1)].flatten(1, 2)
