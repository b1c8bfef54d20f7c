"""Received attention, a piece of the map at a time."""

from collections.abc import Collection

import torch

from ..errors import AOTError
from .common import use_triton, without_autocast

# values of a piece of an attention map: as many as stay in a CPU's cache, or fill a GPU
MAP_VALUES = {"cpu": 2**20}
MAP_VALUES_ELSEWHERE = 2**24


def received_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    scale: float,
    *,
    lse: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Attention that each token receives: mean over heads, sum over queries of softmax(q kᵀ · scale)[:, j].

    q, k: (B, H, N, d) of any float dtype; returns (B, N) float32. Queries go in chunks, so that the largest map held
    is (B, H, chunk, N), of MAP_VALUES. lse: (B, H, N) float32, natural logarithms of the softmax's denominators as
    fused attention leaves them; None computes them. Raises AOTError for an unknown or unavailable backend, or for
    shapes that do not fit.
    """
    if q.dim() != 4 or k.dim() != 4 or q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        shapes = f"{tuple(q.shape)} and {tuple(k.shape)}"
        raise AOTError(f"q and k must be (B, H, N, d) with equal B, H and d; got {shapes}.")
    if lse is not None and lse.shape != q.shape[:3]:
        raise AOTError(f"lse is {tuple(lse.shape)}; it must be (B, H, N) = {tuple(q.shape[:3])}.")
    if use_triton(backend, "received_attention", q, k):
        from .triton.received_attention import received_attention as kernel

        return kernel(q, k, scale, lse)
    batch, heads, queries, _ = q.shape
    tokens = k.shape[2]
    most = MAP_VALUES.get(q.device.type, MAP_VALUES_ELSEWHERE)
    chunk = max(1, min(queries, most // max(1, batch * heads * tokens)))
    keys = k.float().transpose(-1, -2)
    received = torch.zeros(batch, tokens, dtype=torch.float32, device=q.device)
    with without_autocast(q.device):
        for start in range(0, queries, chunk):
            logits = torch.matmul(q[:, :, start : start + chunk].float() * scale, keys)
            part = None if lse is None else lse[:, :, start : start + chunk, None]
            weights = logits.softmax(dim=-1) if part is None else logits.sub_(part).exp_()
            received += weights.sum(dim=(1, 2))
    return received / heads


def layers(num_layers: int) -> tuple[int, int]:
    """The two tower layers whose received attention the method "aot" reads: (shallow, deep), (5, 24) of 26 layers.

    0-based indices among the layers in use: shallow is the layer nearest to 0.2·(L - 1), deep the last but one.
    Raises AOTError for a tower of fewer than two layers.
    """
    if num_layers < 2:
        raise AOTError(f"The tower has {num_layers} layers in use; two importance maps need at least 2.")
    return (num_layers + 1) // 5, num_layers - 2


def needed_layers(needs: Collection[str], used: int) -> dict[str, int]:
    """The 0-based layer that each of these outputs of a tower is read in; AOTError for one that no tower gives.

    needs: names out of "shallow", "deep", "attention_last" and "keys". used: layers in use.
    """
    shallow, deep = layers(used) if {"shallow", "deep"} & set(needs) else (0, 0)
    known = {"shallow": shallow, "deep": deep, "attention_last": used - 1, "keys": used - 1}
    if unknown := sorted(set(needs) - known.keys()):
        raise AOTError(f"This method needs {unknown[0]!r}, which this vision tower cannot give; choose another.")
    return {name: layer for name, layer in known.items() if name in needs}
