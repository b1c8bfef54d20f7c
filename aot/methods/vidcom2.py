"""VidCom2, Video Compression Commander (Liu et al., EMNLP 2025, arXiv 2505.14454): keep what is unlike the means.

On the half of the channels that vary least over the video, tokens of length 1 are compared with the mean token of the
video and with that of their frame by K(x, c) = Σ_α exp(-‖x - c‖² / 2α), α = 2⁻³ … 2¹. A frame's share of the budget
is r (1 + p_f - mean p), p = softmax(u / 0.01), u_f = -mean K to the video; in it the tokens with the lowest sum of both
similarities stay.

Deviations: the shares are met exactly in sum by largest remainders, and what a frame cannot give is given by the
others; the published code rounds each frame on its own.
"""

import torch

from ..config import AOTConfig
from ..ops.common import unit
from ..registry import register
from ..types import Selection, VideoTokens
from ..validation import number_in
from .common import best_by_quota, select_tokens

SCALES = tuple(2.0**power for power in range(-3, 2))


@register("vidcom2", options={"temperature": number_in(0.01, 1e-6, 1e6)})
def vidcom2(video: VideoTokens, config: AOTConfig) -> Selection:
    """Tokens that stand out of the video and of their frame; more of frames that stand out.

    Option: temperature of the budgets of frames.
    """
    frames = video.frames
    budget = config.budget(frames, video.tokens_per_frame)
    units = unit(steady_channels(video.pooled.float()))
    to_video = similarity(units, units.mean(dim=(0, 1), keepdim=True))
    to_frame = similarity(units, units.mean(dim=1, keepdim=True))
    share = (to_video.mean(dim=1).double() / -config.options["temperature"]).softmax(dim=0)
    quota = budget / frames * (1 + share - 1 / frames)
    index = best_by_quota(-(to_video + to_frame), quota, budget)
    return select_tokens(video, index, trace={"to_video": to_video, "to_frame": to_frame, "quota": quota})


def steady_channels(tokens: torch.Tensor) -> torch.Tensor:
    """(T, P, D) -> (T, P, max(1, D // 2)), the channels of the lowest variance over the video, in their order."""
    variance = tokens.flatten(0, 1).var(dim=0, correction=0)
    lowest = variance.argsort(stable=True)[: max(1, tokens.shape[-1] // 2)]
    return tokens.index_select(-1, lowest.sort().values)


def similarity(units: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Gaussian similarity at five scales, (T, P) in (0, 5]. units: (T, P, D); centre: broadcastable to it."""
    squared = (units - centre).square().sum(dim=-1)
    return sum(torch.exp(squared / (-2 * scale)) for scale in SCALES)
