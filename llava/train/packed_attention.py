"""Attention over packed sequences [shared head, independent segments]: fused, and without the empty quarter.

Queries of the head never look at segments, so one mask over everything would compute what is thrown away.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

NAME = "packed_segments"


def packed_attention(module, query, key, value, attention_mask, *, scaling=None, dropout=0.0, head: int, **_):
    """query (B, H, L, d); key, value (B, G, L, d); attention_mask (B, 1, L - head, L) bool, rows of segments only.

    head: length of the causal part that all segments share. Returns ((B, L, H, d), None).
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    shared = F.scaled_dot_product_attention(
        query[:, :, :head], key[:, :, :head], value[:, :, :head], dropout_p=dropout, is_causal=True, scale=scaling
    )
    own = F.scaled_dot_product_attention(
        query[:, :, head:], key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return torch.cat([shared, own], 2).transpose(1, 2), None


AttentionInterface.register(NAME, packed_attention)
