"""Frames that equal each other to the bit pass the vision tower of a model of transformers once.

A hook before the tower takes the repetitions out of what it gets, one behind it puts them back into what it gives and
into what was captured inside.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from ..patch_reuse import distinct_frames
from .qwen_tower import packed_videos, tower_flops
from .vision_outputs import captured

Rows = dict[int, torch.Tensor]  # by the length of a tensor without repetitions: its rows with them
_rows: ContextVar[Rows | None] = ContextVar("aot_duplicate_frames", default=None)
_work: ContextVar["TowerWork | None"] = ContextVar("aot_tower_work", default=None)


@dataclass
class TowerWork:
    """reuse: `AOTConfig.tower_reuse`. spent, whole: counted operations, and those of encoding every frame whole."""

    reuse: float | None
    spent: int = 0
    whole: int = 0

    @property
    def share(self) -> float:
        """Of the operations those that were spent."""
        return self.spent / self.whole if self.whole else 1.0


@contextmanager
def encoding_once(reuse: float | None) -> Iterator[TowerWork]:
    """In which equal frames are encoded once unless reuse is None; a model's settings may change while hooks stay."""
    work = TowerWork(reuse)
    token = _work.set(work)
    try:
        yield work
    finally:
        _work.reset(token)


def tower_work() -> TowerWork | None:
    """What the call of `encoding_once` around this one asks and counts, None outside of one and where it is off."""
    work = _work.get()
    return None if work is None or work.reuse is None or captured() is None else work


def encode_once(tower: nn.Module) -> list[RemovableHandle]:
    """Hooks on a tower, in force inside `encoding_once`."""
    return [tower.register_forward_pre_hook(_before, with_kwargs=True), tower.register_forward_hook(_behind)]


def _before(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    _rows.set(None)
    work = tower_work()
    if work is None:
        return None
    take_out = _packed if hasattr(module, "spatial_merge_size") else _frames
    args, kwargs, rows = take_out(module, args, kwargs, work)
    _rows.set(rows)
    return args, kwargs


def _behind(module: Any, args: tuple, output: Any) -> Any:
    rows, store = _rows.get(), captured()
    _rows.set(None)
    if rows is None or store is None:
        return None
    store.update(put_back(store, rows))
    return put_back(output, rows)


def put_back(values: Any, rows: Rows) -> Any:
    """Nested values with their tensors as they are with repetitions, where `rows` has their length."""

    def repeat(value: Any) -> Any:
        fits = isinstance(value, torch.Tensor) and value.dim() and len(value) in rows
        return value[rows[len(value)]] if fits else value

    return tree_map(repeat, values)


def _frames(tower: Any, args: tuple, kwargs: dict, work: TowerWork) -> tuple[tuple, dict, Rows | None]:
    """Of a tower that takes frames (F, 3, H, W), each of which costs the same."""
    given = args[0] if args else kwargs["pixel_values"]
    frames, which = distinct_frames(given)
    work.spent, work.whole = work.spent + len(frames), work.whole + len(given)
    if len(frames) == len(given):
        return args, kwargs, None
    rows = {len(frames): torch.tensor(which, device=given.device)}
    return ((frames, *args[1:]), kwargs, rows) if args else (args, {**kwargs, "pixel_values": frames}, rows)


def _packed(tower: Any, args: tuple, kwargs: dict, work: TowerWork) -> tuple[tuple, dict, Rows | None]:
    """Of a Qwen-VL tower, which takes the patches (n, C) of all videos, t·h·w of each.

    Its attention stays within what belongs to one of the t, so that equal ones of a video are encoded alike.
    """
    packed, thw = packed_videos(args, kwargs)
    unit, grids = tower.spatial_merge_size**2, thw.tolist()
    whole = tower_flops(tower, grids)
    work.spent, work.whole = work.spent + whole, work.whole + whole
    if len(args) > 2 or any(isinstance(value, torch.Tensor) for value in kwargs.values() if value is not thw):
        return args, kwargs, None  # positions that were made for all of them
    kept, short = [], []
    rows: dict[int, list[torch.Tensor]] = {1: [], unit: []}
    for part, (t, h, w) in zip(packed.split([t * h * w for t, h, w in grids]), grids, strict=True):
        frames, which = distinct_frames(part.unflatten(0, (t, h * w)))
        begins = sum(map(len, kept))
        for size, found in rows.items():
            inside = torch.arange(h * w // size)
            found += [begins // size + frame * h * w // size + inside for frame in which]
        kept.append(frames.flatten(0, 1))
        short.append([len(frames), h, w])
    left = torch.cat(kept)
    if len(left) == len(packed):
        return args, kwargs, None
    work.spent -= whole - tower_flops(tower, short)
    at = {len(left) // size: torch.cat(found).to(packed.device) for size, found in rows.items()}
    return (left,), {**kwargs, "grid_thw": thw.new_tensor(short)}, at
