"""A layer of the tower that also says what its attention was, fused as in every other layer: no N x N map is formed."""

import torch
from torch import nn
from torch.backends.cuda import SDPAParams
from torch.nn.functional import scaled_dot_product_attention

from aot.ops import received_attention


def layer_with_outputs(
    layer: nn.Module, hidden: torch.Tensor, *, received: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """A SigLIP layer's output (F, N, width), its received attention (F, N) float32 where asked for, and its keys.

    Received attention is the mean over heads and the sum over queries of the attention weights. Keys (F, N, d) are
    means over heads. Neither has a gradient.
    """
    attention, normed = layer.self_attn, layer.layer_norm1(hidden)
    query, key, value = (
        projection(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    sums, weights = None, None
    if received and has_sums(query, key, value):
        attended, sums = attention_with_sums(query, key, value, attention.scale)
    else:
        attended = scaled_dot_product_attention(query, key, value, scale=attention.scale)
    if received:
        with torch.no_grad():
            weights = received_attention(query, key, attention.scale, lse=sums)
    hidden = hidden + attention.out_proj(attended.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.layer_norm2(hidden)), weights, key.detach().mean(dim=1)


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
