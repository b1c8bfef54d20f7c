"""Clips, runs of frames inside which tokens are transported, and where their tokens lie."""

from dataclasses import dataclass
from decimal import ROUND_UP, Context
from math import isqrt

import torch

from .config import AOTConfig
from .errors import AOTError
from .ops.common import remembered, true_indices, unit
from .types import VideoTokens

CLIP_FRAMES = 4  # how far in time a kept token may stand for others
CLIP_TOKENS = 800  # the choice of anchors compares them pair by pair; four frames of 14x14
COST_BYTES = 2**28  # costs of token pairs that are held at once, 256 MiB: groups of clips, one clip at most
MAX_CLIP_TOKENS = isqrt(COST_BYTES // 4)  # float32 costs of all pairs of a clip; 8,192


def clip_lengths(video: VideoTokens, config: AOTConfig) -> list[int]:
    """Clip lengths of a video in frames: the caller's, else as the config says."""
    if video.clips is not None:
        return video.clips
    if config.clips == "uniform":
        return uniform_clips(video.frames, config.clip_length)
    descriptors = video.tower.float().mean(dim=1)
    return dynamic_clips(descriptors, threshold=config.clip_threshold, cuts=config.clip_cuts)


def uniform_clips(frames: int, length: int | None = None) -> list[int]:
    """Clip lengths of `length` frames, the last one shorter; None means ceil(T/8) frames."""
    length = -(-frames // 8) if length is None else length
    return [min(length, frames - start) for start in range(0, frames, length)]


def dynamic_clips(descriptors: torch.Tensor, *, threshold: float, cuts: int) -> list[int]:
    """Clip lengths cut after frame t where adjacent descriptors' cosine is below `threshold`, plus the
    `cuts` - 1 lowest (FastVID's rule). descriptors: (T, D) one per frame. Waits once for the device.
    """
    frames = descriptors.shape[0]
    if frames < 1:
        raise AOTError("There are no frames to cut in clips; give at least one.")
    if frames == 1:
        return [1]
    units = unit(descriptors)
    cosine = torch.linalg.vecdot(units[1:], units[:-1])
    below = cosine < threshold
    lowest = cosine.argsort(stable=True)[: cuts - 1]
    ends = [t + 1 for t, cut in enumerate(below.index_fill(0, lowest, True).tolist()) if cut] + [frames]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def default_clip_length(tokens_per_frame: int) -> int:
    """Frames of a clip of the default: CLIP_FRAMES, or as many as hold CLIP_TOKENS tokens, at least one."""
    return max(1, min(CLIP_FRAMES, CLIP_TOKENS // tokens_per_frame))


def short_clips(video: VideoTokens, config: AOTConfig, budget: int) -> list[int]:
    """Clip lengths of the default, at most `budget` many: neighbours are joined evenly where there would be more.

    No clip is longer than clip_length, by itself `default_clip_length`: the caller's and dynamic ones are cut to that.
    """
    most = config.clip_length or default_clip_length(video.tokens_per_frame)
    if video.clips is None and config.clips == "uniform":
        clips = uniform_clips(video.frames, most)
    else:
        clips = [part for length in clip_lengths(video, config) for part in uniform_clips(length, most)]
    if len(clips) <= budget:
        return clips
    bounds = [group * len(clips) // budget for group in range(budget + 1)]
    return [sum(clips[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]


def clip_too_long(lengths: list[int], budget: int, per_frame: int, config: AOTConfig) -> AOTError:
    """What to say where a clip holds more than MAX_CLIP_TOKENS. lengths: frames, of `short_clips` under budget."""
    longest, most = max(lengths), MAX_CLIP_TOKENS // per_frame
    usual = config.clip_length or default_clip_length(per_frame)
    if most == 0:
        advice = "pool the frames, or use another method"
    elif usual <= most and len(lengths) == budget:
        # clips were joined, since each keeps a token: so many tokens leave runs of at most `most` frames
        frames = sum(lengths)
        clips = -(-frames // usual) if config.clips == "uniform" else frames
        tokens = -(-clips // (most // usual))
        if config.max_tokens is not None:  # retention is its share, or less
            advice = f"keep {tokens} tokens or more of such {frames} frames"
        else:
            least = Context(prec=2, rounding=ROUND_UP).divide(tokens, frames * per_frame)
            advice = f"raise retention to {least} or more"
    else:
        advice = f"set clip_length to {most} or less"
    return AOTError(
        f"A clip of {longest} frames of {per_frame} tokens is too long, since all pairs of its tokens are compared and "
        f"more than {MAX_CLIP_TOKENS} are not held at once; {advice}."
    )


def window_ids(grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """(H·W,) window of each token when both sides are cut in three near-equal parts (9x9 tokens at 27x27).

    Window w = 3·⌊3·row/H⌋ + ⌊3·column/W⌋; a side shorter than three leaves windows empty.
    """
    height, width = grid
    rows = torch.arange(height, device=device) * 3 // height
    columns = torch.arange(width, device=device) * 3 // width
    return (rows[:, None] * 3 + columns).flatten()


def window_sizes(grid: tuple[int, int]) -> list[int]:
    """Tokens in each of the nine windows of `window_ids`, without a device."""
    rows, columns = ([sum(1 for i in range(side) if i * 3 // side == part) for part in range(3)] for side in grid)
    return [a * b for a in rows for b in columns]


@dataclass(frozen=True, eq=False)
class ClipLayout:
    """Where the T·P tokens of a video lie in its C clips, which are padded to n = frames·P tokens.

    The clips keep S tokens in all, K at most. "index" counts tokens of the video, t·P + place, "slot" places in the
    padded and flattened clips.

    frames: of the longest clip, to which all are padded
    start_frame: (C,) first frame of each clip
    token_index: (C, n) the token in every slot; padding repeats the last one of the video
    valid: (C, n) bool, False for padding
    flat_slot: (T·P,) the slot of every token in the flattened (C, n)
    global_count: (C,) int64 tokens to choose beyond the local ones; max_global: the most of them
    kept_valid: (C, K) bool, True for as many as the clip keeps
    kept_index: (C, K) which of the S kept tokens each is
    kept_slot: (S,) the slot of every kept token in the flattened (C, K), the inverse of kept_index
    windows: None when no window gets a token

    Two clips of 2 and 1 frames, P = 2 tokens a frame, of which the first keeps 2 and the second 1:
        token_index = [[0, 1, 2, 3], [4, 5, 5, 5]]    valid      = [[1, 1, 1, 1], [1, 1, 0, 0]]
        flat_slot   = [0, 1, 2, 3, 4, 5]              start_frame = [0, 2]
        kept_valid  = [[1, 1], [1, 0]]                kept_index = [[0, 1], [2, 2]]
        kept_slot   = [0, 1, 2]
    """

    frames: int
    start_frame: torch.Tensor
    token_index: torch.Tensor
    valid: torch.Tensor
    flat_slot: torch.Tensor
    global_count: torch.Tensor
    max_global: int
    kept_valid: torch.Tensor
    kept_index: torch.Tensor
    kept_slot: torch.Tensor
    windows: "WindowLayout | None"


@dataclass(frozen=True, eq=False)
class WindowLayout:
    """The nine windows of every clip, padded to the w tokens of the largest one.

    member: (9, w) place in the clip, 0 to n - 1
    valid: (C·9, w) bool, False for padding
    token_index: (C·9, w) the token of the video
    count: (C·9,) int64 tokens to choose in each; max_count: the most of them
    slot: (n,) where each place of a clip lies in the flattened (9, w)
    """

    member: torch.Tensor
    valid: torch.Tensor
    token_index: torch.Tensor
    count: torch.Tensor
    max_count: int
    slot: torch.Tensor


@remembered  # some hundred kilobytes for 32 frames of 14x14
def clip_layout(
    lengths: tuple[int, ...],
    counts: tuple[int, ...],
    grid: tuple[int, int],
    global_ratio: float,
    device: torch.device,
    *,
    frames: int,
) -> ClipLayout:
    """The layout of clips. lengths: frames of each. counts: tokens that each keeps, at least 1. grid: pooled (H, W).

    frames: to which all are padded. Local tokens are a ninth of the share 1 - global_ratio in each window, ⌊·/9⌋,
    where the window has as many. The result is remembered, so that a device is sent nothing for the next video of this
    shape.
    """
    per_frame = grid[0] * grid[1]
    tokens = sum(lengths) * per_frame
    # slots of each clip: n in a row, from its first token on
    length = torch.tensor(lengths, device=device)
    start_frame = length.cumsum(0) - length
    start = start_frame.unsqueeze(1) * per_frame
    place = torch.arange(frames * per_frame, device=device)
    valid = place < length.unsqueeze(1) * per_frame
    token_index = (start + place).clamp_max(tokens - 1)
    index = torch.arange(tokens, device=device)
    clip = torch.searchsorted(start_frame, index // per_frame, right=True) - 1
    # kept tokens of each clip: K in a row
    kept = torch.tensor(counts, device=device).unsqueeze(1)
    rank = torch.arange(max(counts), device=device)
    kept_valid = rank < kept
    # local tokens of each window, which holds its places in every frame of the clip; global ones are the rest
    local = [
        [min(int(count * (1 - global_ratio)) // 9, clip_frames * size) for size in window_sizes(grid)]
        for count, clip_frames in zip(counts, lengths, strict=True)
    ]
    global_count = [count - sum(windows) for count, windows in zip(counts, local, strict=True)]
    return ClipLayout(
        frames=frames,
        start_frame=start_frame,
        token_index=token_index,
        valid=valid,
        flat_slot=clip * len(place) + index - start[clip, 0],
        global_count=torch.tensor(global_count, device=device),
        max_global=max(global_count),
        kept_valid=kept_valid,
        kept_index=(kept.cumsum(0) - kept + rank).clamp_max(sum(counts) - 1),
        kept_slot=true_indices(kept_valid.flatten(), sum(counts)),
        windows=_window_layout(token_index, valid, local, grid, frames) if max(map(max, local)) > 0 else None,
    )


def _window_layout(
    token_index: torch.Tensor, valid: torch.Tensor, local: list[list[int]], grid: tuple[int, int], frames: int
) -> WindowLayout:
    """token_index, valid: of `ClipLayout`. local: tokens to choose, by clip and window."""
    device = token_index.device
    # places of a clip, window by window, each in a row of its own
    order = window_ids(grid, device).repeat(frames).argsort(stable=True)
    size = torch.tensor([[size * frames] for size in window_sizes(grid)], device=device)
    column = torch.arange(max(window_sizes(grid)) * frames, device=device)
    inside = column < size
    member = order[(size.cumsum(0) - size + column).clamp_max(len(order) - 1)]
    # and back; padding goes to a place of its own, which is cut off
    places, slots = token_index.shape[1], torch.arange(member.numel(), device=device)
    slot = slots.new_zeros(places + 1).scatter_(0, torch.where(inside, member, places).flatten(), slots)[:places]
    return WindowLayout(
        member=member,
        valid=(inside & valid[:, member]).flatten(0, 1),
        token_index=token_index[:, member].flatten(0, 1),
        count=torch.tensor(local, device=device).flatten(),
        max_count=max(map(max, local)),
        slot=slot,
    )
