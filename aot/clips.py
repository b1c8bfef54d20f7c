"""Where the tokens of a video's clips lie: index tensors that follow from its shape alone, made once a shape."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from .anchors import grid_window_sizes, window_groups
from .ranks import true_indices
from .temporal import clip_starts

_SHAPES_KEPT = 32  # some hundred kilobytes each for 32 frames of 14x14


@dataclass(frozen=True, eq=False)
class Clips:
    """A video of T·P tokens in C clips, padded to n = longest·P tokens.

    They keep S tokens in all and K at most. longest: frames. starts: (C,) first frame of each clip. token: (C, n) flat
    token indices. real: (C, n) bool, False for padding. slot: (T·P,) where each token lies in the flattened (C, n).
    quota: (C,) int64, tokens chosen beyond the local ones, `most` at most. filled: (C, K) bool, True for as many as the
    clip keeps. rank: (C, K) which of the S kept tokens each is. place: (S,) where each kept token lies in the flattened
    (C, K). windows: None when none of them gets a token.
    """

    longest: int
    starts: torch.Tensor
    token: torch.Tensor
    real: torch.Tensor
    slot: torch.Tensor
    quota: torch.Tensor
    most: int
    filled: torch.Tensor
    rank: torch.Tensor
    place: torch.Tensor
    windows: "Windows | None"

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Values (T, P) by clip, (C, n), 0 where there is padding."""
        return values.flatten()[self.token] * self.real

    def flat(self, values: torch.Tensor) -> torch.Tensor:
        """Values (C, n) by token, (T·P,)."""
        return values.flatten()[self.slot]


@dataclass(frozen=True, eq=False)
class Windows:
    """The nine windows of every clip, padded to the w tokens of the largest.

    member: (9, w) places in the clip. inside: (C·9, w) bool, False for padding. token: (C·9, w) flat token indices.
    quota: (C·9,) int64, tokens chosen in each, `most` at most. back: (n,) where each place of a clip lies in (9·w).
    """

    member: torch.Tensor
    inside: torch.Tensor
    token: torch.Tensor
    quota: torch.Tensor
    most: int
    back: torch.Tensor


def lay_out(
    lengths: list[int],
    counts: list[int],
    grid: tuple[int, int],
    global_ratio: float,
    device: torch.device,
    *,
    longest: int | None = None,
) -> Clips:
    """The clips of a video. lengths: frames of each. counts: tokens that each keeps, at least 1. grid: pooled (H, W).

    longest: frames that all are padded to, None for those of the longest.

    Local tokens are a ninth of the share 1 - global_ratio in each window, ⌊·/9⌋, where the window has as many. The
    result is remembered, so that a device is sent nothing for the next video of this shape.
    """
    each = [int(count * (1 - global_ratio)) // 9 for count in counts]
    return _lay_out(tuple(lengths), tuple(counts), grid, tuple(each), longest or max(lengths), device)


@lru_cache(maxsize=_SHAPES_KEPT)
@torch.inference_mode(False)  # what is remembered serves both modes
def _lay_out(
    lengths: tuple[int, ...],
    counts: tuple[int, ...],
    grid: tuple[int, int],
    each: tuple[int, ...],
    longest: int,
    device: torch.device,
) -> Clips:
    per_frame = grid[0] * grid[1]
    tokens = sum(lengths) * per_frame
    first = clip_starts(list(lengths), device)
    starts = first.unsqueeze(1) * per_frame
    place = torch.arange(longest * per_frame, device=device)
    ends = torch.cat([starts[1:], starts.new_full((1, 1), tokens)])
    number = torch.arange(tokens, device=device)
    clip = torch.searchsorted(first, number // per_frame, right=True) - 1
    token, real = (starts + place).clamp_max(tokens - 1), starts + place < ends
    count = torch.tensor(counts, device=device).unsqueeze(1)
    kept = torch.arange(max(counts), device=device)
    filled = kept < count
    # a window holds its places in every frame of a clip
    sizes = grid_window_sizes(grid)
    local = [[min(few, length * size) for size in sizes] for few, length in zip(each, lengths, strict=True)]
    quota = [count - sum(parts) for count, parts in zip(counts, local, strict=True)]
    return Clips(
        longest=longest,
        starts=first,
        token=token,
        real=real,
        slot=clip * len(place) + number - starts[clip, 0],
        quota=torch.tensor(quota, device=device),
        most=max(quota),
        filled=filled,
        rank=(count.cumsum(0) - count + kept).clamp_max(sum(counts) - 1),
        place=true_indices(filled.flatten(), sum(counts)),
        windows=_windows(token, real, local, grid, longest) if max(each) > 0 else None,
    )


def _windows(
    token: torch.Tensor, real: torch.Tensor, local: list[list[int]], grid: tuple[int, int], longest: int
) -> Windows:
    member, inside = window_groups(grid, longest, token.device)
    count, slots = token.shape[1], torch.arange(member.numel(), device=token.device)
    back = slots.new_zeros(count + 1)  # padding goes to a place of its own
    return Windows(
        member=member,
        inside=(inside & real[:, member]).flatten(0, 1),
        token=token[:, member].flatten(0, 1),
        quota=torch.tensor(local, device=token.device).flatten(),
        most=max(map(max, local)),
        back=back.scatter_(0, torch.where(inside, member, count).flatten(), slots)[:count],
    )
