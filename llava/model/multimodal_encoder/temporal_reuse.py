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
    # key frames are whole (K, N, width), of the others there are the changed patches (F', n, width)
    whole = hidden[plan.keys]
    parts = [hidden[part.frames].gather(1, _wide(part.patches, hidden)) for part in plan.changed]
    bases = [[plan.key_of[frame] for frame in part.frames] for part in plan.changed]
    received, keys = dict.fromkeys(received), dict.fromkeys(keys)
    for i, layer in enumerate(layers):
        scale = layer.self_attn.scale
        whole, own = _through(layer, whole)
        found = [own]
        for number, part in enumerate(plan.changed):
            of_key = [side[bases[number]] for side in own]
            parts[number], mixed = _through(layer, parts[number], of_key, part.patches, queries=i in received)
            found.append(mixed)
        if i in received:
            maps = [received_attention(query, key, scale) for query, key, _ in found]
            received[i] = _frames(plan, maps)
        if i in keys:
            keys[i] = _frames(plan, [key.mean(1) for _, key, _ in found])
    features = [whole]
    for part, base, changed in zip(plan.changed, bases, parts, strict=True):
        features.append(whole[base].scatter(1, _wide(part.patches, changed), changed))
    return _frames(plan, features), received, keys


def _through(
    layer: nn.Module,
    hidden: torch.Tensor,
    of_key: Sequence[torch.Tensor] | None = None,
    patches: torch.Tensor | None = None,
    *,
    queries: bool = False,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """One layer's output for hidden (F, n, width), and queries, keys and values (F, heads, N, d) of the whole frames.

    of_key: those of the key frames, among which hidden's are at ``patches`` (F, n). queries: are they put together too?
    """
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden)
    query, key, value = (
        projection(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    whole_query = query
    if of_key is not None:
        places = patches[:, None, :, None].expand_as(key)
        key, value = (side.scatter(2, places, new) for side, new in zip(of_key[1:], (key, value), strict=True))
        if queries:
            whole_query = of_key[0].scatter(2, places, query)
    attended = scaled_dot_product_attention(query, key, value, scale=attention.scale)
    hidden = hidden + attention.out_proj(attended.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.layer_norm2(hidden)), (whole_query, key, value)


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
