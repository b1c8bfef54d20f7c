"""Visual tokens in the place of the <image> marks of a batch of prompts, and padding: pure functions."""

import logging
from collections.abc import Callable, Sequence

import torch

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX

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


def splice_row(
    ids: torch.Tensor, labels: torch.Tensor, visual: Sequence[torch.Tensor], embed: Callable
) -> tuple[torch.Tensor, torch.Tensor]:
    """One row: ids, labels (L,) and visual [(S, D)] -> embeddings (L', D) and labels (L',), -100 on visual
    tokens.
    """
    marks = (ids == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()
    starts, ends = [0, *(mark + 1 for mark in marks)], [*marks, len(ids)]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    text = embed(ids[ids != IMAGE_TOKEN_INDEX]).split(lengths)
    parts, targets = [text[0]], [labels[: ends[0]]]
    for i, tokens in enumerate(visual, start=1):
        parts += [tokens.to(text[0]), text[i]]
        targets += [labels.new_full((len(tokens),), IGNORE_INDEX), labels[starts[i] : ends[i]]]
    return torch.cat(parts), torch.cat(targets)


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
