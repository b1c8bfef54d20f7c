"""Visual tokens in order with their newlines, and in the place of the <image> marks of a batch of prompts.

Pure functions of features, ids and embeddings.
"""

import logging
import math
import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.mm_utils import get_anyres_image_grid_shape


def arrange_video(pooled: torch.Tensor, newline: torch.Tensor | None, *, position: str) -> torch.Tensor:
    """(F, h, w, D) pooled tokens -> (S, D) in frame and raster order with newline tokens (D,) by
    ``position``.

    grid: after every row, S = F·h·(w+1); frame: after every frame, S = F·(h·w+1); one_token: one at the very
    end; no_token, or a newline of None: S = F·h·w. Raises ValueError for another position.
    """
    if position not in ("grid", "frame", "one_token", "no_token"):
        raise ValueError(f"Unknown mm_newline_position {position!r}; use 'one_token', 'grid', 'frame' or 'no_token'.")
    frames, height, width, dim = pooled.shape
    if newline is None or position == "no_token":
        return pooled.reshape(-1, dim)
    newline = newline.to(pooled)
    if position == "grid":
        return torch.cat([pooled, newline.expand(frames, height, 1, dim)], dim=2).reshape(-1, dim)
    if position == "frame":
        return torch.cat([pooled.flatten(1, 2), newline.expand(frames, 1, dim)], dim=1).reshape(-1, dim)
    return torch.cat([pooled.reshape(-1, dim), newline.expand(1, dim)])


def arrange_image(
    features: torch.Tensor, newline: torch.Tensor | None, config, *, tile: int, size: tuple[int, int] | None
) -> torch.Tensor:
    """(tiles, N, D) features of one image -> (S, D) tokens, by ``mm_patch_merge_type`` and ``image_aspect_ratio``.

    One tile: its tokens and one newline. Several: the whole image first, then the tiles joined to one map,
    freed of the padding that the (width, height) ``size`` implies and, above the N tiles of ``anyres_max_N``, scaled
    down, with a newline after every row. No newline unless the merge type ends in unpad. tile: its side in pixels.
    Raises ValueError where configuration and tiles do not fit.
    """
    merge_type = getattr(config, "mm_patch_merge_type", None) or "flat"
    if merge_type not in ("flat", "spatial", "spatial_unpad"):
        raise ValueError(f"Unknown mm_patch_merge_type {merge_type!r}; use 'flat', 'spatial' or 'spatial_unpad'.")
    if merge_type == "flat":
        return features.flatten(0, 1)
    unpad = merge_type == "spatial_unpad"
    if unpad and newline is None:
        raise ValueError("mm_patch_merge_type 'spatial_unpad' needs a checkpoint with image_newline; use 'spatial'.")
    if features.shape[0] == 1:
        return torch.cat([features[0], newline.to(features)[None]]) if unpad else features[0]
    mode = getattr(config, "image_aspect_ratio", None) or "square"
    most = re.fullmatch(r"anyres_max_(\d+)", mode)
    if mode != "anyres" and most is None:
        raise ValueError(
            f"An entry of images has {len(features)} tiles or frames, which image_aspect_ratio {mode!r} does not "
            "make; name it 'video' in modalities if it is a video."
        )
    joined = _join_tiles(features[1:], getattr(config, "image_grid_pinpoints", None), tile, size)
    if not unpad:
        return torch.cat([features[0], joined.flatten(1).T])
    joined = unpad_map(joined, size)
    height, width = joined.shape[1:]
    ratio = 0.0 if most is None else math.sqrt(height * width / (int(most[1]) * features.shape[1]))
    if ratio > 1.1:  # far more places than the tiles may have, bilinearly scaled to about as many
        joined = F.interpolate(joined[None], (int(height // ratio), int(width // ratio)), mode="bilinear")[0]
    rows = torch.cat([joined, newline.to(joined)[:, None, None].expand(-1, joined.shape[1], 1)], dim=2)
    return torch.cat([features[0], rows.flatten(1).T])


def _join_tiles(tiles: torch.Tensor, pinpoints, tile: int, size: tuple[int, int] | None) -> torch.Tensor:
    """(n, N, D) row-major tiles -> (D, rows·side, columns·side)."""
    if size is None:
        raise ValueError("image_sizes is missing; give the (width, height) of every image in several tiles.")
    columns, rows = get_anyres_image_grid_shape(tuple(size), pinpoints, tile)
    if columns * rows != len(tiles):
        raise ValueError(
            f"An image of {size[0]}x{size[1]} makes {columns * rows} tiles and the whole image, but its "
            f"entry in images has {len(tiles) + 1}; name it 'video' in modalities if it is a video, else use "
            "process_images."
        )
    side = math.isqrt(tiles.shape[1])
    grid = tiles.view(rows, columns, side, side, -1)
    return grid.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)


def unpad_map(joined: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cuts a (D, H, W) map to the part that an image of (width, height) covers when fitted and centred."""
    width, height = size
    map_height, map_width = joined.shape[1:]
    if width / height > map_width / map_height:
        margin = (map_height - int(height * map_width / width)) // 2
        return joined[:, margin : map_height - margin]
    margin = (map_width - int(width * map_height / height)) // 2
    return joined[:, :, margin : map_width - margin]


logger = logging.getLogger(__name__)


def share_out(rows: Sequence[torch.Tensor], visual: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Visual entries of each row of ids, in order.

    One entry per mark; where text-only rows each bring a dummy entry, as training batches of LLaVA-NeXT do,
    it is dropped. Raises ValueError for any other number of entries.
    """
    marks = [int((row == IMAGE_TOKEN_INDEX).sum()) for row in rows]
    dummies = len(visual) == sum(marks) + marks.count(0)
    if len(visual) != sum(marks) and not dummies:
        raise ValueError(
            f"The prompts hold {sum(marks)} {DEFAULT_IMAGE_TOKEN} marks, but images has {len(visual)} "
            "entries; give one entry for each mark."
        )
    shares, start = [], 0
    for count in marks:
        shares.append(list(visual[start : start + count]))
        start += count or int(dummies)
    return shares


def splice_rows(
    input_ids: torch.Tensor,
    mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    visual: Sequence[torch.Tensor],
    embed: Callable,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Embeddings (L', D) and labels (L',) of each row of a batch, without padding, with visual tokens at the marks.

    input_ids, labels: (B, L). mask: (B, L), which places are no padding. visual: entries (S, D), see `share_out`.
    embed: ids (L,) -> (L, D). Labels are -100 on visual tokens, and everywhere where none are given.
    """
    keep = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    if labels is None:
        labels = torch.full_like(input_ids, IGNORE_INDEX)
    rows = [row[kept] for row, kept in zip(input_ids, keep, strict=True)]
    rows_labels = [row[kept] for row, kept in zip(labels, keep, strict=True)]
    spliced = []
    for ids, wanted, share in zip(rows, rows_labels, share_out(rows, visual), strict=True):
        marks = (ids == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()
        starts, ends = [0, *(mark + 1 for mark in marks)], [*marks, len(ids)]
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        text = embed(ids[ids != IMAGE_TOKEN_INDEX]).split(lengths)
        parts, targets = [text[0]], [wanted[: ends[0]]]
        for i, tokens in enumerate(share, start=1):
            parts += [tokens.to(text[0]), text[i]]
            targets += [wanted.new_full((len(tokens),), IGNORE_INDEX), wanted[starts[i] : ends[i]]]
        spliced.append((torch.cat(parts), torch.cat(targets)))
    return spliced


def cut(
    rows: list[tuple[torch.Tensor, torch.Tensor]], max_length: int | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of (embeddings, labels) cut at ``max_length`` tokens."""
    longest = max(len(embeds) for embeds, _ in rows)
    if max_length is None or longest <= max_length:
        return rows
    logger.warning(
        "A prompt of %d tokens was cut to tokenizer_model_max_length = %d; its end is lost. "
        "Use fewer frames or a lower retention.",
        longest,
        max_length,
    )
    return [(embeds[:max_length], labels[:max_length]) for embeds, labels in rows]


def pad_rows(
    rows: list[tuple[torch.Tensor, torch.Tensor]], *, side: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows padded on the ``side`` ("left" or "right") to the longest.

    Returns embeddings (B, L, D), zeros in the padding; labels (B, L), -100 there; mask (B, L) bool; position
    ids (B, L), counting from 0 at each row's first token.
    """
    if side not in ("left", "right"):
        raise ValueError(f"tokenizer_padding_side is {side!r}; use 'left' or 'right'.")
    length = max(len(embeds) for embeds, _ in rows)
    embeds = torch.stack([_pad(row, length, 0, side) for row, _ in rows])
    labels = torch.stack([_pad(row, length, IGNORE_INDEX, side) for _, row in rows])
    places = [torch.arange(len(row), device=embeds.device) for row, _ in rows]
    mask = torch.stack([_pad(torch.ones_like(row, dtype=torch.bool), length, False, side) for row in places])
    return embeds, labels, mask, torch.stack([_pad(row, length, 0, side) for row in places])


def _pad(row: torch.Tensor, length: int, value: float, side: str) -> torch.Tensor:
    padding = row.new_full((length - len(row), *row.shape[1:]), value)
    return torch.cat([padding, row] if side == "left" else [row, padding])


def left_align(mask: torch.Tensor, *tensors: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Moves the masked-out places of every row to its front; mask (B, L), tensors (B, L, ...) or None.

    Generation continues behind the last place of a row, so that place must be a token.
    """
    order = mask.bool().int().argsort(dim=1, stable=True)
    batch = torch.arange(len(mask), device=mask.device)[:, None]
    return tuple(None if tensor is None else tensor[batch, order] for tensor in (mask, *tensors))
