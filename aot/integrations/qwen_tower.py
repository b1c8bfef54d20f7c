"""What methods read from the vision tower of the Qwen-VL models, whose attention has one projection for q, k and v.

Patches come in blocks of merge·merge, each of which the merger makes one token; Qwen2.5-VL orders the blocks by windows
while its layers run, and only some of its layers see a whole frame.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import AOTError
from ..ops.received_attention import needed_layers, received_attention


class TowerReader:
    """Which layers of a tower give the outputs that a method needs, and what these outputs are.

    needs: names out of "shallow", "deep", "attention_last" and "keys". Each is read in the nearest layer that sees a
    whole frame. Raises AOTError for other names and other towers.
    """

    def __init__(self, tower: Any, needs: Sequence[str]):
        blocks = getattr(tower, "blocks", ())
        if not blocks or not all(hasattr(getattr(block, "attn", None), "qkv") for block in blocks):
            raise AOTError(f"The vision tower {type(tower).__name__} is not supported; use a Qwen-VL model.")
        self.tower, self.unit = tower, tower.spatial_merge_size**2
        whole = getattr(tower, "fullatt_block_indexes", None) or range(len(blocks))
        self.layers = {
            name: min(whole, key=lambda layer, to=wanted: (abs(layer - to), layer))
            for name, wanted in needed_layers(needs, len(blocks)).items()
        }

    @property
    def names(self) -> list[str]:
        """What `capturing` must be asked for."""
        return sorted({f"attention{layer}" for layer in self.layers.values()})

    @torch.no_grad()
    def read(self, captured: Mapping[str, Any], thw: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """Of each video by name: received attention (T, N) float32, keys (T, N, d) as mean over heads.

        thw: (V, 3) of the videos in patches. A token's received attention is the sum over its patches, its key their
        mean; keys are those before rotation, which tell what a patch shows and not where it is.
        """
        grids = thw.tolist()
        raster = self._raster(thw)
        videos: list[dict[str, torch.Tensor]] = [{} for _ in grids]
        for name, layer in self.layers.items():
            attention = self.tower.blocks[layer].attn
            queries, keys = self._heads(attention, captured[f"attention{layer}"], rotated=name != "keys")
            if name == "keys":
                values = keys.mean(1).unflatten(0, (-1, self.unit)).mean(1)
            else:
                values = self._received(queries, keys, grids)
            parts = values[raster].split([t * h * w // self.unit for t, h, w in grids])
            for video, part, (t, _, _) in zip(videos, parts, grids, strict=True):
                video[name] = part.unflatten(0, (t, -1))
        return videos

    def _raster(self, thw: torch.Tensor) -> Any:
        """Where each merged token of the videos stands while the layers run, as an index."""
        order = window_order(self.tower, thw)
        return order if isinstance(order, slice) else order.argsort()

    def _heads(self, attention: Any, given: Any, *, rotated: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, H, d) queries and keys of a layer, from what its attention was called with."""
        args, kwargs = given
        hidden, (cos, sin) = args[0] if args else kwargs["hidden_states"], kwargs["position_embeddings"]
        queries, keys = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)[:2]
        rotate = from_modeling_file(attention, "apply_rotary_pos_emb_vision")
        return rotate(queries, keys, cos, sin) if rotated else (queries, keys)

    def _received(self, queries: torch.Tensor, keys: torch.Tensor, grids: list) -> torch.Tensor:
        """(n / unit,) received attention of the merged tokens, in the tower's order. queries, keys: (n, H, d)."""
        sizes = [t * h * w for t, h, w in grids]
        maps = []
        for q, k, (t, _, _) in zip(queries.split(sizes), keys.split(sizes), grids, strict=True):
            q, k = (side.unflatten(0, (t, -1)).transpose(1, 2) for side in (q, k))  # (T, H, h·w, d)
            maps.append(received_attention(q, k, q.shape[-1] ** -0.5).flatten())
        return torch.cat(maps).unflatten(0, (-1, self.unit)).sum(1)


def packed_videos(args: tuple, kwargs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """What a tower is called with: patches (n, C) of all videos, and (V, 3) t·h·w of each."""
    return args[0] if args else kwargs["hidden_states"], args[1] if len(args) > 1 else kwargs["grid_thw"]


def from_modeling_file(module: nn.Module, name: str) -> Any:
    """What is called so in transformers' file of a module's class; one may be wrapped, by PEFT or torch.compile."""
    files = (sys.modules[type(part).__module__] for part in module.modules())
    return next(getattr(file, name) for file in files if hasattr(file, name))


def window_order(tower: Any, thw: torch.Tensor) -> Any:
    """Which merged token of the videos (V, 3) stands at each place of the layers, as an index."""
    if not hasattr(tower, "window_size"):
        return slice(None)
    if hasattr(tower, "get_window_index"):  # transformers 4
        windows = tower.get_window_index(thw)[0]
    else:
        windows = from_modeling_file(tower, "get_vision_window_index")(
            thw, tower.spatial_merge_size, tower.window_size, tower.patch_size
        )[0]
    return windows.to(thw.device)


def block_products(tower: Any) -> int:
    """Multiplications of one block of patches in the patch embedding, the linear maps of the layers and the mergers."""
    layers, whole = (
        sum(part.in_features * part.out_features for part in module.modules() if isinstance(part, nn.Linear))
        for module in (tower.blocks, tower)
    )
    return tower.spatial_merge_size**2 * (tower.patch_embed.proj.weight.numel() + layers) + whole - layers


def tower_flops(tower: Any, grids: Sequence[Sequence[int]]) -> int:
    """Counted floating-point operations of videos t·h·w that are computed whole.

    Products alone, two operations a multiplication.
    """
    width, unit = tower.blocks[0].attn.qkv.in_features, tower.spatial_merge_size**2
    whole = len(getattr(tower, "fullatt_block_indexes", tower.blocks))
    block, flops = block_products(tower), 0
    for t, h, w in grids:
        pairs = whole * (h * w) ** 2
        if hasattr(tower, "window_size"):
            side = tower.window_size // tower.spatial_merge_size // tower.patch_size * tower.spatial_merge_size
            rows, columns = (length // side * side**2 + (length % side) ** 2 for length in (h, w))
            pairs += (len(tower.blocks) - whole) * rows * columns
        flops += 2 * t * (h * w // unit * block + 2 * width * pairs)
    return flops
