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
    blind: (B, rows) bool on the CPU, the rows that must not look at the visual tokens.
    """

    prefix: int
    head: int
    rows: tuple[tuple[int, int], ...]
    blind: torch.Tensor

    @property
    def length(self) -> int:
        return self.head + sum(count * size for count, size in self.rows)


def packed_attention(
    module, query, key, value, attention_mask, *, scaling=None, dropout=0.0, layout: Layout, guides=None, **_
):
    """query (B, H, L, d); key, value (B, G, L, d). Returns ((B, L, H, d), None). guides: a `Guides` that watches."""
    group = query.shape[1] // key.shape[1]
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    query = (query * (scaling or query.shape[-1] ** -0.5)).to(dtype).unflatten(1, (-1, group))  # (B, G, H/G, L, d)
    key, value = key.to(dtype), value.to(dtype)
    if guides is not None:
        guides.watch(module.layer_idx, query[:, 0, 0], key[:, 0])
    head = layout.head
    keys, values = key[:, :, :head], value[:, :, :head]
    scores = _grouped(query[..., :head, :], keys.mT)
    parts = [_grouped(scores.add_(_causal(head, scores)).softmax(-1), values)]
    at, row = head, 0
    for count, size in layout.rows:
        rows = slice(at, at + count * size)
        q = query[..., rows, :].unflatten(3, (count, size))  # (B, G, H/G, n, S, d)
        k, v = (x[:, :, None, rows].unflatten(3, (count, size)) for x in (key, value))  # (B, G, 1, n, S, d)
        shared = _grouped(query[..., rows, :], keys.mT).unflatten(3, (count, size))  # (B, G, H/G, n, S, head)
        blind = layout.blind[:, row : row + count]
        if blind.any():
            unseen = torch.zeros(*blind.shape, head, dtype=dtype)
            unseen[..., layout.prefix :].masked_fill_(blind[:, :, None], float("-inf"))
            shared = shared.add_(unseen[:, None, None, :, None].to(shared.device))
        own = (q @ k.mT).add_(_causal(size, q))
        weights = torch.cat([shared, own], -1).softmax(-1)
        seen = _grouped(weights[..., :head].flatten(3, 4), values)
        parts.append(seen + (weights[..., head:] @ v).flatten(3, 4))
        at, row = at + count * size, row + count
    return torch.cat(parts, 3).flatten(1, 2).transpose(1, 2), None


def _grouped(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(B, G, h, L, m) @ (B, G, m, n) -> (B, G, h, L, n): the h heads of a group as one matrix product."""
    return (left.flatten(2, 3) @ right).unflatten(2, left.shape[2:4])


def _causal(size: int, like: torch.Tensor) -> torch.Tensor:
    """(size, size): 0 where a query may look, -inf behind it."""
    return torch.full((size, size), float("-inf"), dtype=like.dtype, device=like.device).triu(1)


AttentionInterface.register(NAME, packed_attention)
