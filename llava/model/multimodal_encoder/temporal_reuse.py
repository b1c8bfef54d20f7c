"""The tower's layers on frames of which only the changed patches are computed; the others are a key frame's."""

from collections.abc import Collection, Sequence

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from aot.ops import received_attention
from aot.reuse import ReusePlan


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
