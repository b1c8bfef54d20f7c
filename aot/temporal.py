"""Clips: runs of frames inside which tokens may be transported in time (section 3.3)."""

from decimal import ROUND_UP, Context
from math import isqrt

import torch

from .config import AOTConfig
from .errors import AOTError
from .scores import unit
from .video import VideoTokens

CLIP_FRAMES = 4  # how far in time a kept token may stand for others
CLIP_TOKENS = 800  # the choice of anchors compares them pair by pair; four frames of 14x14
COST_BYTES = 2**28  # costs of token pairs that are held at once, 256 MiB: groups of clips, one clip at most
MOST_CLIP_TOKENS = isqrt(COST_BYTES // 4)  # float32 costs of all pairs of a clip; 8,192


def clip_lengths(video: VideoTokens, config: AOTConfig) -> list[int]:
    """Clip lengths of a video: the caller's, else as the config says."""
    if video.clips is not None:
        return video.clips
    if config.clips == "uniform":
        return uniform_clips(video.frames, config.clip_length)
    descriptors = video.tower.float().mean(dim=1)
    return dynamic_clips(descriptors, threshold=config.clip_threshold, cuts=config.clip_cuts)


def default_clip_length(tokens_per_frame: int) -> int:
    """Frames of a clip in the schedule "joint": CLIP_FRAMES, or as many as hold CLIP_TOKENS tokens, at least one."""
    return max(1, min(CLIP_FRAMES, CLIP_TOKENS // tokens_per_frame))


def short_clips(video: VideoTokens, config: AOTConfig, budget: int) -> list[int]:
    """Clip lengths of the schedule "joint", at most `budget` many.

    Unless clip_length is set, clips are `default_clip_length` long, and the caller's and dynamic ones are cut to that.
    """
    most = config.clip_length or default_clip_length(video.tokens_per_frame)
    if video.clips is None and config.clips == "uniform":
        clips = uniform_clips(video.frames, most)
    else:
        clips = clip_lengths(video, config)
        if config.clip_length is None:
            clips = [part for length in clips for part in uniform_clips(length, most)]
    return join_clips(clips, budget)


def check_clip_size(lengths: list[int], budget: int, per_frame: int, config: AOTConfig) -> None:
    """AOTError where a clip holds more than MOST_CLIP_TOKENS tokens. lengths: frames, of `short_clips` under budget."""
    longest, most = max(lengths), MOST_CLIP_TOKENS // per_frame
    usual = config.clip_length or default_clip_length(per_frame)
    if longest <= most:
        return
    if most == 0:
        advice = "pool the frames, or use another method"
    elif usual <= most and len(lengths) == budget:
        # clips were joined, since each keeps a token: so many tokens leave runs of at most `most` frames
        frames = sum(lengths)
        clips = -(-frames // usual) if config.clips == "uniform" else frames
        least = Context(prec=2, rounding=ROUND_UP).divide(-(-clips // (most // usual)), frames * per_frame)
        advice = f"raise retention to {least} or more"
    elif config.clip_length is not None and config.clips == "uniform":
        advice = f"set clip_length to {most} or less"
    else:
        advice = f"give clips of {most} frames or fewer, or leave clip_length out"
    raise AOTError(
        f"A clip of {longest} frames of {per_frame} tokens is too long, since all pairs of its tokens are compared and "
        f"more than {MOST_CLIP_TOKENS} are not held at once; {advice}."
    )


def clip_groups(lengths: list[int], per_frame: int) -> list[range]:
    """Runs of clips whose costs take at most COST_BYTES together, each padded to the longest clip of the video."""
    size = max(1, COST_BYTES // (4 * (max(lengths) * per_frame) ** 2))
    return [range(first, min(first + size, len(lengths))) for first in range(0, len(lengths), size)]


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


def clip_starts(clips: list[int], device: torch.device) -> torch.Tensor:
    """(C,) int64 first frame of each clip."""
    lengths = torch.tensor(clips, device=device)
    return lengths.cumsum(0) - lengths


def join_clips(clips: list[int], most: int) -> list[int]:
    """The same frames in at most `most` clips: neighbours are joined evenly."""
    count = len(clips)
    if count <= most:
        return clips
    bounds = [group * count // most for group in range(most + 1)]
    return [sum(clips[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
