"""Clips: runs of frames inside which tokens may be transported in time (section 3.3)."""

import torch

from .config import AOTConfig
from .errors import AOTError
from .video import VideoTokens

CLIP_FRAMES = 4  # how far in time a kept token may stand for others
CLIP_TOKENS = 800  # the choice of anchors compares them pair by pair; four frames of 14x14


def clip_lengths(video: VideoTokens, config: AOTConfig) -> list[int]:
    """Clip lengths of a video: the caller's, else as the config says."""
    if video.clips is not None:
        return video.clips
    if config.clips == "uniform":
        return uniform_clips(video.frames, config.clip_length)
    descriptors = video.features.float().mean(dim=1)
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
    cosine = torch.nn.functional.cosine_similarity(descriptors[1:].float(), descriptors[:-1].float(), dim=-1)
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
