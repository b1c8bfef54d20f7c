"""Float32 reference of every operation; the specification of the fast versions and the CPU path."""

import torch


def received_attention(
    q: torch.Tensor, k: torch.Tensor, scale: float, *, chunk: int | None = None
) -> torch.Tensor:
    """Attention received by each token: mean over heads, sum over queries of softmax(q kᵀ · scale)[:, j].

    q, k: (B, H, N, d). Returns (B, N) float32. Queries go in chunks, so that the largest map held is
    (B, H, chunk, N); the default chunk bounds it to about 16 million values.
    """
    batch, heads, queries, _ = q.shape
    tokens = k.shape[2]
    if chunk is None:
        chunk = max(1, min(queries, 2**24 // max(1, batch * heads * tokens)))
    keys = k.float().transpose(-1, -2)
    received = torch.zeros(batch, tokens, dtype=torch.float32, device=q.device)
    for part in q.split(chunk, dim=2):
        logits = torch.matmul(part.float() * scale, keys)
        received += logits.softmax(dim=-1).sum(dim=(1, 2))
    return received / heads
