"""Prompts with fewer placeholders: pure functions of ids, masks and tokens, and what a cache remembers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from ..errors import AOTError


@dataclass(frozen=True)
class PrunedPrompt:
    """What a key-value cache holds of a prompt that was shortened.

    original_length: tokens of the prompt as the caller counts them
    attention_mask: (B, L') the tokens that entered, 0 for padding
    following: (B, 1) position of the token behind the prompt, in models whose positions are no count of tokens
    videos_end: entries up to the last token of a video
    """

    original_length: int
    attention_mask: torch.Tensor
    following: torch.Tensor | None = None
    videos_end: int = 0

    def for_rows(self, rows: int, held: int | None) -> "PrunedPrompt":
        """The same for a call of so many prompts, each of which may have been repeated in turn in a cache of `held`.

        AOTError for prompts that are not those of the cache.
        """
        repeats = rows // len(self.attention_mask)
        if repeats == 1 and rows == len(self.attention_mask):
            return self
        if rows != held or rows % len(self.attention_mask):
            raise AOTError(
                f"The cache is of {len(self.attention_mask)} prompts, but {rows} came; go on with the same, or call "
                "batch_repeat_interleave of the cache before."
            )
        following = None if self.following is None else self.following.repeat_interleave(repeats, 0)
        return replace(self, attention_mask=self.attention_mask.repeat_interleave(repeats, 0), following=following)

    def original_length_of(self, cached: int) -> int:
        """Places of the caller's count that a cache of `cached` entries stands for."""
        return self.original_length + cached - self.attention_mask.shape[1]

    def cache_mask(self, cached: int, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, cached) mask of the cache's entries; mask: (B, >= original length) of the caller or None, all tokens.

        A cache that was cut behind its videos has fewer entries than the prompt.
        """
        cache_mask = self.attention_mask[:, :cached]
        later = cached - cache_mask.shape[1]
        if mask is None:
            return torch.cat([cache_mask, cache_mask.new_ones(len(cache_mask), later)], dim=1)
        since = mask[:, self.original_length : self.original_length + later]
        return torch.cat([cache_mask, since.to(cache_mask)], dim=1)


def videos_per_row(ids: torch.Tensor, token: int, sizes: Sequence[int], *, repeats: int = 1) -> list[list[int]]:
    """Which of the videos each row shows, by number.

    ids: (B, L), with as many placeholders `token` for every video as sizes say. repeats: how many rows in turn are the
    same prompt (for beams) and share their videos. Raises AOTError when placeholders and videos do not match.
    """
    counts = (ids == token).sum(1).tolist()
    rows, start = [], 0
    for count in counts[::repeats]:
        end = start
        while count > 0 and end < len(sizes):
            count, end = count - sizes[end], end + 1
        if count:
            break
        rows += [list(range(start, end))] * repeats
        start = end
    if len(rows) < len(ids) or start < len(sizes):
        raise AOTError(
            f"The prompts hold {sum(counts)} video placeholders, which does not fit {len(sizes)} videos of "
            f"{', '.join(map(str, sizes))}; make prompts and videos with the model's processor in one call, "
            "and behind a cache give those that are new."
        )
    return rows


def kept_columns(
    ids: torch.Tensor, token: int, rows: Sequence[Sequence[int]], kept: Sequence[tuple[torch.Tensor | None, int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What is left of each row when every kept token stands at its own placeholder: columns and, for each, its token.

    ids: (B, L). rows: the videos of each row. kept: of each video the placeholder of each of its tokens, (S,), and
    how many placeholders it has; None for an image, whose places all stay and are no video's. Returns for each row
    ascending columns (L',) and as many numbers of tokens, counted over all videos, -1 for a column that is no video's.
    A place that a method emits twice is there twice.
    """
    firsts = [0, *accumulate(0 if index is None else len(index) for index, _ in kept)]
    columns, numbers = [], []
    for row, videos in zip(ids, rows, strict=True):
        video = row == token
        slots, text = video.nonzero().flatten(), (~video).nonzero().flatten()
        column, number, start = [text], [torch.full_like(text, -1)], 0
        for v in videos:
            index, size = kept[v]
            run = slots[start : start + size]
            column.append(run if index is None else run[index])
            number.append(
                torch.full_like(run, -1) if index is None else torch.arange(len(index), device=ids.device) + firsts[v]
            )
            start += size
        order = torch.cat(column).argsort(stable=True)
        columns.append(torch.cat(column)[order])
        numbers.append(torch.cat(number)[order])
    return columns, numbers


def left_pad(rows: Sequence[torch.Tensor], value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L') of the rows with `value` in front of shorter ones, and which places count; one place at least."""
    longest = max(1, *(len(row) for row in rows))
    table = rows[0].new_full((len(rows), longest), value)
    counts = torch.zeros_like(table, dtype=torch.bool)
    for number, row in enumerate(rows):
        table[number, longest - len(row) :], counts[number, longest - len(row) :] = row, True
    return table, counts


def shortened_labels(labels: torch.Tensor, order: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(B, L') labels at the columns left, -100 for what fills, and for the first token, which nothing foretells."""
    predicted = counts & torch.nn.functional.pad(counts, (1, -1))
    return labels.gather(1, order).masked_fill(~predicted, -100)


def shortened_levels(
    visual: torch.Tensor,
    levels: Sequence[torch.Tensor],
    merged: Sequence[torch.Tensor],
    order: torch.Tensor,
    counts: torch.Tensor,
    number: torch.Tensor,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """DeepStack's mask (B, L') and rows for the columns left: of images their own, of videos what is left of them.

    visual: (B, L) places of images and videos, with the rows of each level in turn. merged: (S, R) of each level, the
    kept tokens' of all videos; empty where there is none. order, counts, number: (B, L'), as of `left_pad`.
    """
    row = (visual.flatten().cumsum(0) - 1).view_as(visual).gather(1, order)
    left = visual.gather(1, order) & counts
    row, number = row[left], number[left]
    rows = [level[row] for level in levels]
    if merged:
        video, place = (number >= 0).unsqueeze(-1), number.clamp_min(0)
        rows = [torch.where(video, own[place].to(level), level) for own, level in zip(merged, rows, strict=True)]
    return left, rows


def positions(mask: torch.Tensor, count: int) -> torch.Tensor:
    """(B, count) position ids of the last places under a mask (B, L): tokens counted from 0."""
    return (mask.long().cumsum(1) - 1).masked_fill(mask == 0, 0)[:, mask.shape[1] - count :]
