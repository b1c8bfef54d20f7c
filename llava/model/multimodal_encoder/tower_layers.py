"""Layers of the tower that do more than pass on: they give their attention, or compute changed patches alone."""

from collections.abc import Collection, Sequence

import torch
from torch import nn
from torch.backends.cuda import SDPAParams
from torch.nn.functional import scaled_dot_product_attention

from aot.ops import received_attention
from aot.patch_reuse import ReusePlan


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


def reusing_layers(
    layers: Sequence[nn.Module], hidden: torch.Tensor, plan: ReusePlan, received: Collection[int], keys: Collection[int]
) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Output (F, N, width) of the last layer, and by layer received attention (F, N) and keys (F, N, d).

    layers: of SigLIP's encoder. hidden: (F, N, width). In every layer a changed patch attends to its whole frame, in
    which unchanged patches have the keys and values of the key frame. Received attention is that of the frame's changed
    queries and of the key frame's others.
    """
    # parts: the key frames whole (K, N), then the changed patches (F', n) of others; one matrix of all, since each
    # product is fast with many rows alone
    bases = [[plan.key_of[frame] for frame in part.frames] for part in plan.changed]
    shapes = [(len(plan.keys), hidden.shape[1]), *(part.patches.shape for part in plan.changed)]
    sizes = [frames * patches for frames, patches in shapes]
    picked = [hidden[part.frames].gather(1, _wide(part.patches, hidden)) for part in plan.changed]
    rows = torch.cat([part.flatten(0, 1) for part in (hidden[plan.keys], *picked)])
    received, keys = dict.fromkeys(received), dict.fromkeys(keys)
    for i, layer in enumerate(layers):
        attention, normed = layer.self_attn, layer.layer_norm1(rows)
        # (F', heads, n, d) by part; keys and values, and queries where they are read, put into those of the key frames
        query, key, value = (
            [
                side.unflatten(0, shape).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
                for side, shape in zip(projection(normed).split(sizes), shapes, strict=True)
            ]
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        whole_query = list(query)
        for number, (part, base) in enumerate(zip(plan.changed, bases, strict=True), start=1):
            places = part.patches[:, None, :, None].expand_as(query[number])
            for side in (key, value, *([whole_query] if i in received else [])):
                side[number] = side[0][base].scatter(2, places, side[number])
        attended = [
            scaled_dot_product_attention(q, k, v, scale=attention.scale).transpose(1, 2).flatten(2).flatten(0, 1)
            for q, k, v in zip(query, key, value, strict=True)
        ]
        rows = rows + attention.out_proj(torch.cat(attended))
        rows = rows + layer.mlp(layer.layer_norm2(rows))
        if i in received:
            maps = [received_attention(q, k, attention.scale) for q, k in zip(whole_query, key, strict=True)]
            received[i] = _frames(plan, maps)
        if i in keys:
            keys[i] = _frames(plan, [side.mean(1) for side in key])
    whole, *changed = (part.unflatten(0, shape) for part, shape in zip(rows.split(sizes), shapes, strict=True))
    features = [whole]
    for part, base, values in zip(plan.changed, bases, changed, strict=True):
        features.append(whole[base].scatter(1, _wide(part.patches, values), values))
    return _frames(plan, features), received, keys


def _wide(patches: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(F, n) numbers of patches as (F, n, width), to gather and scatter values by."""
    return patches.unsqueeze(-1).expand(-1, -1, values.shape[-1])


def _frames(plan: ReusePlan, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Values (F, ...) of all frames from those of the key frames and of the parts with changed patches."""
    where = list(plan.key_of)
    row = len(plan.keys)
    for part in plan.changed:
        for frame in part.frames:
            where[frame], row = row, row + 1
    return torch.cat(list(values))[where]
