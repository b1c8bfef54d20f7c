"""Attention over packed sequences [head, rows of segments …].

A row holds one exchange. Its tokens look at the head (prefix and visual tokens) and, causally, at their own row. The
head attends to itself causally. Both parts go through PyTorch's fused attention, so no map of all pairs is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention
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

    def mask(self, device: torch.device) -> torch.Tensor:
        """(B, 1, R, L) bool: what the R tokens of the rows may look at."""
        sizes = torch.tensor([size for count, size in self.rows for _ in range(count)])
        row = torch.arange(len(sizes)).repeat_interleave(sizes)
        place = torch.arange(len(row))
        own = (row[:, None] == row) & (place[:, None] >= place)
        seen = torch.ones(len(self.blind), len(row), self.head, dtype=torch.bool)
        seen[..., self.prefix :] = ~self.blind[:, row, None]
        return torch.cat([seen, own.expand(len(seen), -1, -1)], -1).unsqueeze(1).to(device)


def packed_attention(
    module, query, key, value, attention_mask, *, scaling=None, dropout=0.0, layout: Layout, rows_mask, guides=None, **_
):
    """query (B, H, L, d); key, value (B, G, L, d). Returns ((B, L, H, d), None). guides: a `Guides` that watches."""
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    scale = scaling or query.shape[-1] ** -0.5
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if guides is not None:
        guides.watch(module.layer_idx, query[:, 0] * scale, key[:, 0])
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    head = layout.head
    shared = scaled_dot_product_attention(
        query[:, :, :head], key[:, :, :head], value[:, :, :head], is_causal=True, scale=scale
    )
    own = scaled_dot_product_attention(query[:, :, head:], key, value, attn_mask=rows_mask, scale=scale)
    return torch.cat([shared, own], 2).transpose(1, 2), None


AttentionInterface.register(NAME, packed_attention)
