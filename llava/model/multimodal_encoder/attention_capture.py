"""Side outputs of single attention layers while these layers stay on fused attention.

A layer prepared by `prepare` runs fused attention as before. Inside `capturing`, it also leaves its received
attention (or its keys) behind; no N x N map is formed. The store is a context variable: concurrent calls do
not see each other.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import nn
from torch.backends.cuda import SDPAParams
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from aot.ops import received_attention

FUSED = "sdpa"
CAPTURING = "sdpa_with_side_outputs"


@dataclass
class SideOutputs:
    """What one layer is asked for and, after the forward pass, has left behind.

    received: (B, N) float32, mean over heads and sum over queries of the attention weights.
    keys: (B, N, head_dim), mean over heads, in the layer's dtype.
    """

    want_received: bool = False
    want_keys: bool = False
    received: torch.Tensor | None = None
    keys: torch.Tensor | None = None


_store: ContextVar[dict[nn.Module, SideOutputs] | None] = ContextVar("side_outputs", default=None)


def _fused_with_side_outputs(module, query, key, value, attention_mask, **kwargs):
    """An attention function for transformers: query, key, value (B, heads, N, head_dim)."""
    wanted = (_store.get() or {}).get(module)
    if wanted is not None and wanted.want_keys:
        wanted.keys = key.detach().mean(dim=1)
    if wanted is None or not wanted.want_received:
        return ALL_ATTENTION_FUNCTIONS[FUSED](module, query, key, value, attention_mask, **kwargs)
    scale = kwargs.get("scaling", query.shape[-1] ** -0.5)
    output, sums = None, None
    if attention_mask is None and not kwargs.get("dropout") and has_sums(query, key, value):
        output, sums = attention_with_sums(query, key, value, scale)
    with torch.no_grad():
        wanted.received = received_attention(query, key, scale, lse=sums)
    if output is None:
        return ALL_ATTENTION_FUNCTIONS[FUSED](module, query, key, value, attention_mask, **kwargs)
    return output.transpose(1, 2).contiguous(), None


def has_sums(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether flash attention runs on these (B, heads, N, head_dim), and so leaves its log-sum-exp."""
    if query.device.type == "cpu":
        return query.dtype in (torch.float32, torch.bfloat16, torch.float16)
    if query.device.type != "cuda" or query.shape[-1] % 8:
        return False
    given = (query, key, value, None, 0.0, False)
    try:
        params = SDPAParams(*given, False)
    except TypeError:  # torch 2.4 knows nothing of grouped queries
        params = SDPAParams(*given)
    return torch.backends.cuda.can_use_flash_attention(params)


def attention_with_sums(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fused attention (B, heads, N, head_dim) and the log-sum-exp of its scores, (B, heads, N) float32."""
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scale)
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[:2]


AttentionInterface.register(CAPTURING, _fused_with_side_outputs)


def prepare(attention: nn.Module) -> None:
    """Gives one attention module a configuration of its own that names the capturing function."""
    if not prepared(attention):
        attention.config = copy.deepcopy(attention.config)
        attention.config._attn_implementation = CAPTURING


def prepared(attention: nn.Module) -> bool:
    """Did `prepare` have this module?"""
    return attention.config._attn_implementation == CAPTURING


@contextmanager
def capturing(wanted: dict[nn.Module, SideOutputs]) -> Iterator[None]:
    """Fills ``wanted`` (attention module -> request) during the forward passes inside."""
    token = _store.set(wanted)
    try:
        yield
    finally:
        _store.reset(token)
