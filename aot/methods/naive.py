"""Naive baselines that any method must beat: evenly spaced tokens, random tokens, whole frames, the first tokens."""

import torch

from ..config import AOTConfig
from ..registry import register
from ..types import Selection, VideoTokens
from ..validation import count_from
from .common import even_indices, select_tokens


@register("uniform", floor=True)
def uniform(video: VideoTokens, config: AOTConfig) -> Selection:
    """Every k-th token of the video."""
    total = video.frames * video.tokens_per_frame
    count = config.budget(video.frames, video.tokens_per_frame)
    return select_tokens(video, even_indices(count, total, video.features.device))


@register("random", options={"seed": count_from(0, -(2**63), 2**63 - 1)}, floor=True)
def random(video: VideoTokens, config: AOTConfig) -> Selection:
    """Tokens drawn without replacement over the whole video; the same seed draws the same tokens."""
    total = video.frames * video.tokens_per_frame
    count = config.budget(video.frames, video.tokens_per_frame)
    generator = torch.Generator().manual_seed(config.options["seed"])
    index = torch.randperm(total, generator=generator, device="cpu")[:count].sort().values
    return select_tokens(video, index.to(video.features.device))


@register("frames", floor=True)
def frames(video: VideoTokens, config: AOTConfig) -> Selection:
    """Evenly spaced whole frames; the last one is thinned evenly to meet the budget.

    The first frame is always among them; a budget below one frame thins that frame.
    """
    per_frame = video.tokens_per_frame
    count = config.budget(video.frames, per_frame)
    device = video.features.device
    slots = -(-count // per_frame)
    chosen = torch.arange(slots, device=device) * video.frames // slots
    whole = (chosen[:-1, None] * per_frame + torch.arange(per_frame, device=device)).flatten()
    rest = even_indices(count - (slots - 1) * per_frame, per_frame, device)
    return select_tokens(video, torch.cat([whole, chosen[-1] * per_frame + rest]))


@register("first", floor=True)
def first(video: VideoTokens, config: AOTConfig) -> Selection:
    """The first tokens of the video, in frame and raster order."""
    count = config.budget(video.frames, video.tokens_per_frame)
    return select_tokens(video, torch.arange(count, device=video.features.device))
