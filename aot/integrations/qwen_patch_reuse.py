"""Reuse in time inside the vision towers of the Qwen-VL models: blocks of patches that stand still are not computed.

A block is the merge·merge patches of a temporal pair of frames that become one token. The tower runs as it always does,
but from its patch embedding to its mergers on the rows of changed blocks alone. Only attention looks beyond them:
unchanged blocks have the key frame's keys and values, which are rotated for the same place.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ..errors import AOTError
from ..patch_reuse import plan_reuse
from .duplicate_frames import put_back, tower_work
from .qwen_tower import block_products, from_modeling_file, packed_videos, window_order
from .vision_outputs import captured

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)  # by which the processors of Qwen2-VL and Qwen2.5-VL divide pixels
HALF_STD = (0.5, 0.5, 0.5)  # those of Qwen3-VL and Qwen3.5


@dataclass
class Reuse:
    """What one call of a tower computes; all in the order of its layers, in which windows stand together.

    rows: (n',) places of the computed patches, and packed: (n',) where they are in what the tower is given. shown: (n,)
    which of the rows each patch shows. pairs: of a query and a key that attention left out so far. segments: by their
    number, of each kind of windows the queries and keys.
    """

    rows: torch.Tensor
    packed: torch.Tensor
    shown: torch.Tensor
    pairs: int = 0
    segments: dict[int, tuple[list, int]] = field(default_factory=dict)

    def attend(self, attention: Any, hidden: torch.Tensor, bounds: torch.Tensor, rotation: tuple) -> torch.Tensor:
        """(n', width) output of an attention for the computed rows, each of which sees its whole window.

        bounds: where windows, or frames, of all n patches begin and end. rotation: cosine and sine (n, d).
        """
        if len(bounds) not in self.segments:
            self.segments[len(bounds)] = self._segments(bounds)
        segments, pairs = self.segments[len(bounds)]
        self.pairs += pairs
        query, key, value = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)  # (n', H, d)
        rotate = from_modeling_file(attention, "apply_rotary_pos_emb_vision")
        query, key = rotate(query, key, *(side[self.rows] for side in rotation))
        attended = torch.empty_like(value)
        for queries, keys in segments:  # (windows, patches) each
            sides = (side[at].transpose(1, 2) for side, at in ((query, queries), (key, keys), (value, keys)))
            attended[queries] = scaled_dot_product_attention(*sides).transpose(1, 2)
        return attention.proj(attended.flatten(1))

    def _segments(self, bounds: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], int]:
        """Rows of the queries and of the keys of windows of the same two sizes, and the pairs that are left out."""
        first = torch.searchsorted(self.rows, bounds.to(self.rows))  # rows before each bound
        by_size: dict[tuple[int, int], list[tuple[int, int]]] = {}
        pairs = 0
        table = torch.stack([first[:-1], bounds[:-1], first.diff(), bounds.diff()], dim=1)
        for row, place, queries, keys in table.tolist():
            pairs += (keys - queries) * keys
            if queries:
                by_size.setdefault((queries, keys), []).append((row, place))
        found = []
        for (queries, keys), windows in by_size.items():
            row, place = self.rows.new_tensor(windows).unsqueeze(-1).unbind(1)  # (windows, 1) each
            within = [torch.arange(size, device=row.device) for size in (queries, keys)]
            found.append((row + within[0], self.shown[place + within[1]]))
        return found, pairs


_reuse: ContextVar[Reuse | None] = ContextVar("aot_qwen_reuse", default=None)


def reuse_blocks(tower: Any) -> list:
    """Handles of what lets a tower reuse blocks where `encoding_once` asks for it; to come behind `encode_once`."""

    all_blocks = partial(_all_blocks, tower.spatial_merge_size**2)
    mergers = [tower.merger, *getattr(tower, "deepstack_merger_list", ())]
    return [
        tower.register_forward_pre_hook(_before, with_kwargs=True),
        tower.patch_embed.register_forward_pre_hook(_pixels_alone),
        tower.patch_embed.register_forward_hook(_in_places),
        tower.blocks[0].register_forward_pre_hook(_rows_alone, with_kwargs=True),
        *(Attending(block.attn) for block in tower.blocks),
        *(merger.register_forward_hook(all_blocks) for merger in mergers),
        tower.register_forward_hook(_behind, prepend=True),
    ]


def _before(module: Any, args: tuple, kwargs: dict) -> None:
    work = tower_work()
    _reuse.set(None)
    if work is None or not work.reuse:
        return
    if any(block.training and getattr(block, "gradient_checkpointing", False) for block in module.blocks):
        raise AOTError(
            "Gradient checkpointing runs layers again without what they reused; turn it off in the vision tower, "
            "or set tower_reuse=0."
        )
    _reuse.set(_plan(module, *packed_videos(args, kwargs), work.reuse))


def _pixels_alone(module: Any, args: tuple) -> tuple | None:
    reuse = _reuse.get()
    return None if reuse is None else (args[0][reuse.packed],)


def _in_places(module: Any, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
    reuse = _reuse.get()  # what stands at the other places is not read
    empty = None if reuse is None else output.new_zeros(len(reuse.shown), output.shape[-1])
    return None if empty is None else empty.index_copy(0, reuse.packed, output)


def _rows_alone(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    reuse = _reuse.get()
    return None if reuse is None else ((args[0][reuse.rows], *args[1:]), kwargs)


def _all_blocks(unit: int, module: Any, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
    reuse = _reuse.get()
    return None if reuse is None else output[reuse.shown[::unit] // unit]


def _behind(module: Any, args: tuple, output: Any) -> None:
    reuse, work, store = _reuse.get(), tower_work(), captured()
    _reuse.set(None)
    if reuse is None or work is None or store is None:
        return
    rows = {len(reuse.rows): reuse.shown}
    store.update(put_back(store, rows))
    if hasattr(output, "last_hidden_state"):
        output.last_hidden_state = put_back(output.last_hidden_state, rows)
    still = (len(reuse.shown) - len(reuse.rows)) // module.spatial_merge_size**2
    width = module.blocks[0].attn.qkv.in_features
    work.spent -= 2 * (still * block_products(module) + 2 * width * reuse.pairs)


class Attending:
    """Stands in front of an attention's forward until it is removed."""

    def __init__(self, attention: nn.Module):
        copied = "_aot_forward" in vars(attention)  # with its model, while that was reduced
        self.attention, self.had = attention, None if copied else vars(attention).get("forward")
        if not copied:
            attention._aot_forward = attention.forward
        attention.forward = self.forward = partial(_attend, attention)

    def remove(self) -> None:
        if self.attention.__dict__.get("forward") is not self.forward:
            return  # somebody stands in front of it since, and goes on calling it
        del self.attention._aot_forward, self.attention.forward
        if self.had is not None:  # one that spreads a model over devices
            self.attention.forward = self.had


def _attend(attention: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    reuse = _reuse.get()
    if reuse is None:
        return attention._aot_forward(hidden_states, *args, **kwargs)
    return reuse.attend(attention, hidden_states, kwargs["cu_seqlens"], kwargs["position_embeddings"])


def _plan(tower: Any, packed: torch.Tensor, thw: torch.Tensor, bound: float) -> Reuse | None:
    """Of videos (n, C), t·h·w patches of each; None where all patches are to be computed.

    Pixels are taken to a scale from 0 to 1 by the standard deviations of the processors of the released models.
    """
    unit = tower.spatial_merge_size**2
    std = torch.tensor(HALF_STD if hasattr(tower, "pos_embed") else CLIP_STD, device=packed.device)
    pixels = (packed.float().unflatten(1, (len(std), -1)) * std[:, None]).flatten(1)
    order = torch.arange(len(packed) // unit, device=packed.device)[window_order(tower, thw)]
    blocks = pixels.view(len(order), -1)  # in raster order, a frame behind the other
    sources, begins = [], 0
    for t, h, w in thw.tolist():
        size, ends = h * w // unit, begins + t * h * w // unit
        grid = (h // tower.spatial_merge_size, w // tower.spatial_merge_size)
        plan = plan_reuse(blocks[begins:ends].unflatten(0, (t, size)), bound, grid)
        sources.append(begins + plan.sources(size, packed.device).flatten())
        begins = ends
    source = order.argsort()[torch.cat(sources)[order]]  # in the order of the layers
    computed = source == torch.arange(len(source), device=packed.device)
    found = computed.nonzero()[:, 0]
    inside = torch.arange(unit, device=packed.device)
    parts = (found, order[found], (computed.cumsum(0) - 1)[source])
    rows, given, shown = ((part[:, None] * unit + inside).flatten() for part in parts)
    return None if len(rows) == len(packed) else Reuse(rows, given, shown)
