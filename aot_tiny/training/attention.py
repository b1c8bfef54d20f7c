"""Attention over packed sequences [head, rows of segments …].

A row holds one exchange. Its tokens look at the head (prefix and visual tokens) and, causally, at their own row. The
head attends to itself causally.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "packed_segments"
SHORT = 600  # longest sequence whose map of all pairs is made: it stays in a processor's cache


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

    def biases(self, device: torch.device, heads: int) -> list[torch.Tensor]:
        """(B·count·heads, size, head + size) for each group of rows: 0 where a row's token may look, else -inf."""
        biases, row = [], 0
        for count, size in self.rows:
            blind = self.blind[:, row : row + count].reshape(-1, 1, 1)
            visual = torch.arange(self.head) >= self.prefix
            seen = ~(blind & visual).expand(-1, size, -1)
            own = torch.ones(size, size, dtype=torch.bool).tril().expand(len(seen), -1, -1)
            bias = torch.zeros(len(seen), size, self.head + size, dtype=torch.bfloat16)
            bias = bias.masked_fill(~torch.cat([seen, own], -1), float("-inf"))
            biases.append(bias.repeat_interleave(heads, 0).to(device))
            row += count
        return biases


class RowAttention(torch.autograd.Function):
    """softmax(Q·Kᵀ + bias)·V with its map kept; on a CPU three times as fast as the fused one for so short rows."""

    @staticmethod
    def forward(ctx, query, key, value, bias):
        """query (N, Q, d), already scaled; key, value (N, K, d); bias (N, Q, K)."""
        plan = torch.baddbmm(bias.to(query.dtype), query, key.transpose(1, 2)).softmax(-1)
        ctx.save_for_backward(query, key, value, plan)
        return plan @ value

    @staticmethod
    def backward(ctx, grad):
        query, key, value, plan = ctx.saved_tensors
        grad_scores = torch._softmax_backward_data(grad @ value.transpose(1, 2), plan, -1, plan.dtype)
        return grad_scores @ key, grad_scores.transpose(1, 2) @ query, plan.transpose(1, 2) @ grad, None


def packed_attention(
    module,
    query,
    key,
    value,
    attention_mask,
    *,
    scaling=None,
    dropout=0.0,
    layout: Layout,
    row_biases,
    guides=None,
    **_,
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
    # the head attends causally to itself
    head = layout.head
    own = (query[:, :, :head] * scale, key[:, :, :head], value[:, :, :head])  # (B, H, head, d)
    if head > SHORT:
        shared = scaled_dot_product_attention(*own, is_causal=True, scale=1.0)
    else:
        bias = torch.full((head, head), float("-inf"), dtype=dtype, device=query.device).triu(1)
        shared = RowAttention.apply(*(x.flatten(0, 1) for x in own), bias).view_as(own[0])
    # the rows to it, and causally to themselves
    parts, at = [shared], head
    for (count, size), bias in zip(layout.rows, row_biases, strict=True):
        end = at + count * size
        looked, known, told = (
            x[:, :, at:end].unflatten(2, (count, size)).transpose(1, 2) for x in (query * scale, key, value)
        )  # (B, count, H, size, d)
        keys, values = (
            torch.cat([x[:, None, :, :head].expand(-1, count, -1, -1, -1), own], 3).flatten(0, 2)
            for x, own in ((key, known), (value, told))
        )  # (B·count·H, head + size, d)
        rows = RowAttention.apply(looked.flatten(0, 2), keys, values, bias).view_as(looked)
        parts.append(rows.transpose(1, 2).flatten(2, 3))
        at = end
    return torch.cat(parts, 2).transpose(1, 2), None


AttentionInterface.register(NAME, packed_attention)
