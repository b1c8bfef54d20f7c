"""Prompts with fewer placeholders: pure functions of ids, masks and tokens, and what a cache remembers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import AOTError


@dataclass(frozen=True)
class PrunedPrompt:
    """What a key-value cache holds of a prompt that was shortened.

    original_length: places of the prompt as the caller counts them
    attention_mask: (B, L') the places that entered, 0 for padding
    """

    original_length: int
    attention_mask: torch.Tensor

    def original_length_of(self, cached: int) -> int:
        """Places of the caller's count that a cache of `cached` entries stands for."""
        return self.original_length + cached - self.attention_mask.shape[1]

    def entered_mask(self, cached: int, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, cached) mask of the cache's entries; mask: (B, >= original length) of the caller or None, all tokens.

        A cache that was cut behind its videos has fewer entries than the prompt.
        """
        entered = self.attention_mask[:, :cached]
        later = cached - entered.shape[1]
        if mask is None:
            return torch.cat([entered, entered.new_ones(len(entered), later)], dim=1)
        if len(mask) != len(entered):
            raise AOTError(f"The cache holds {len(entered)} prompts, but {len(mask)} came; go on with the same.")
        return torch.cat([entered, mask[:, self.original_length : self.original_length + later].to(entered)], dim=1)


def videos_of_rows(ids: torch.Tensor, token: int, size: int, videos: int, *, repeats: int = 1) -> list[list[int]]:
    """Which of the videos each row shows, by number.

    ids: (B, L), with `size` placeholders `token` for every video. repeats: how many rows in turn are the same
    prompt (for beams) and share their videos. Raises AOTError when placeholders and videos do not match.
    """
    counts = (ids == token).sum(1).tolist()
    if sum(counts) != size * videos * repeats or any(count % size for count in counts):
        raise AOTError(
            f"The prompts hold {sum(counts)} video placeholders, which does not fit {videos} videos of {size}; "
            "make prompts and videos with the model's processor in one call."
        )
    rows, start = [], 0
    for count in counts[::repeats]:
        rows += [list(range(start, start + count // size))] * repeats
        start += count // size
    return rows


def places_to_keep(ids: torch.Tensor, token: int, size: int, lengths: Sequence[Sequence[int]]) -> torch.Tensor:
    """(B, L) bool: of each video's `size` placeholders only the last so many; lengths by row and video."""
    video = ids == token
    number = video.cumsum(1) - 1  # of each placeholder in its row
    longest = max((len(row) for row in lengths), default=0)
    table = torch.tensor([[*row, *[0] * (longest - len(row))] for row in lengths], device=ids.device)
    limit = table.gather(1, (number.clamp_min(0) // size).clamp_max(longest - 1))
    return ~video | (number % size >= size - limit)


def shorten(keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L') columns to gather and which of them count, from (B, L) bool.

    Rows that keep fewer places than the longest are filled on the left, so that the last place stays last; a model
    can't read nothing, so one place is left where no row keeps any.
    """
    longest = max(1, int(keep.sum(1).max()))
    order = keep.int().argsort(dim=1, stable=True)[:, keep.shape[1] - longest :]
    return order, keep.gather(1, order)


def positions(mask: torch.Tensor, count: int) -> torch.Tensor:
    """(B, count) position ids of the last places under a mask (B, L): tokens counted from 0."""
    return (mask.long().cumsum(1) - 1).masked_fill(mask == 0, 0)[:, mask.shape[1] - count :]
