"""Attention over packed sequences [head, rows of segments …]: only the blocks that are not empty.

A row holds one exchange. Its tokens look at the head (prefix and visual tokens) and, causally, at their own row.
Plain matrix products in the dtype of the autocast: on CPUs the fused kernels' backward pass is slower.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AttentionInterface

NAME = "packed_segments"


@dataclass(frozen=True)
class Layout:
    """How a packed sequence is laid out.

    prefix: leading text tokens. head: these and the visual tokens. rows: (count, length) of each group of rows.
    blind: (B, rows) bool, the rows that must not look at the visual tokens.
    """

    prefix: int
    head: int
    rows: tuple[tuple[int, int], ...]
    blind: torch.Tensor

    @property
    def length(self) -> int:
        return self.head + sum(count * size for count, size in self.rows)


def packed_attention(module, query, key, value, attention_mask, *, scaling=None, dropout=0.0, layout: Layout, **_):
    """query (B, H, L, d); key, value (B, G, L, d). Returns ((B, L, H, d), None)."""
    groups = query.shape[1] // key.shape[1]
    dtype = torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else query.dtype
    query = (query * (scaling or query.shape[-1] ** -0.5)).to(dtype)
    key, value = (x.to(dtype).repeat_interleave(groups, 1) for x in (key, value))
    head = layout.head
    keys, values = key[:, :, :head], value[:, :, :head]
    scores = (query[:, :, :head] @ keys.mT).add_(_causal(head, query))
    parts = [scores.softmax(-1) @ values]
    unseen = torch.zeros(layout.blind.shape[0], layout.blind.shape[1], head, dtype=dtype, device=query.device)
    unseen[:, :, layout.prefix :].masked_fill_(layout.blind.to(unseen.device)[:, :, None], float("-inf"))
    at, row = head, 0
    for count, size in layout.rows:
        rows = slice(at, at + count * size)
        q, k, v = (x[:, :, rows].unflatten(2, (count, size)) for x in (query, key, value))  # (B, H, n, S, d)
        shared = (q.flatten(2, 3) @ keys.mT).unflatten(2, (count, size))  # (B, H, n, S, head)
        shared = shared.add_(unseen[:, None, row : row + count, None])
        weights = torch.cat([shared, (q @ k.mT).add_(_causal(size, query))], -1).softmax(-1)
        seen = (weights[..., :head].flatten(2, 3) @ values).unflatten(2, (count, size))
        parts.append((seen + weights[..., head:] @ v).flatten(2, 3))
        at, row = at + count * size, row + count
    return torch.cat(parts, 2).transpose(1, 2), None


def _causal(size: int, like: torch.Tensor) -> torch.Tensor:
    """(size, size): 0 where a query may look, -inf behind it."""
    return torch.full((size, size), float("-inf"), dtype=like.dtype, device=like.device).triu(1)


AttentionInterface.register(NAME, packed_attention)
