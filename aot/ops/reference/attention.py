"""Received attention, a piece of the map at a time."""

import torch

# values of a piece of an attention map: as many as stay in a CPU's cache, or fill a GPU
MAP_VALUES = {"cpu": 2**20}
MAP_VALUES_ELSEWHERE = 2**24


def received_attention(
    q: torch.Tensor, k: torch.Tensor, scale: float, *, lse: torch.Tensor | None = None, chunk: int | None = None
) -> torch.Tensor:
    """Attention received by each token: mean over heads, sum over queries of softmax(q kᵀ · scale)[:, j].

    q, k: (B, H, N, d). lse: (B, H, N) or None. Returns (B, N) float32. Queries go in chunks, so that the
    largest map held is (B, H, chunk, N).
    """
    batch, heads, queries, _ = q.shape
    tokens = k.shape[2]
    if chunk is None:
        most = MAP_VALUES.get(q.device.type, MAP_VALUES_ELSEWHERE)
        chunk = max(1, min(queries, most // max(1, batch * heads * tokens)))
    keys = k.float().transpose(-1, -2)
    received = torch.zeros(batch, tokens, dtype=torch.float32, device=q.device)
    for start in range(0, queries, chunk):
        logits = torch.matmul(q[:, :, start : start + chunk].float() * scale, keys)
        part = None if lse is None else lse[:, :, start : start + chunk, None]
        weights = logits.softmax(dim=-1) if part is None else logits.sub_(part).exp_()
        received += weights.sum(dim=(1, 2))
    return received / heads
