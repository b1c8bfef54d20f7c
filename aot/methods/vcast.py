"""V-CAST (Lin et al. 2026, arXiv 2603.27650): more tokens where the path of the frames bends, each frame's outliers.

A frame is described by the mean of its tokens, scaled to length 1. Its curvature is 1 - cos of the step that leads to
it and the step that leads on; the first and the last frame have 1. Every frame gets one token, the rest of the budget
goes by softmax(curvature / 0.7). A frame keeps the tokens of the highest sum of 1 - cos to its description and of their
length, min-max normalised in the frame.

Deviations: what a frame of P tokens cannot take is given to the others evenly, where the published code gives it to the
frame of the largest remainder until that is full; a budget below one token a frame goes by the softmax alone, where it
rounds up to one each; a video of one frame is reduced, too. Descriptions are of tokens after the pooling; its code
works on Qwen3-VL, whose DeepStack features follow the same places.
"""

import torch

from ..config import AOTConfig
from ..ops.common import unit
from ..registry import register
from ..types import Selection, VideoTokens
from ..validation import number_in
from .common import best_by_quota, select_tokens


@register("vcast", options={"temperature": number_in(0.7, 1e-6, 1e6)}, tuned={"temperature": 0.3})
def vcast(video: VideoTokens, config: AOTConfig) -> Selection:
    """Option: temperature of the budgets of frames."""
    frames, per_frame = video.frames, video.tokens_per_frame
    budget = config.budget(frames, per_frame)
    tokens = video.pooled.float()
    means = unit(tokens.mean(dim=1))
    curved = curvature(means)
    least = int(budget >= frames)
    share = (curved.double() / config.options["temperature"]).softmax(dim=0)
    length = torch.linalg.vector_norm(tokens, dim=-1)
    low, high = length.amin(1, keepdim=True), length.amax(1, keepdim=True)
    spread = torch.where(high > low, high - low, 1.0)
    score = 1 - torch.linalg.vecdot(unit(tokens), means.unsqueeze(1)) + (length - low) / spread
    index = best_by_quota(score, least + share * (budget - least * frames), budget)
    return select_tokens(video, index, trace={"curvature": curved, "score": score})


def curvature(means: torch.Tensor) -> torch.Tensor:
    """(T,) 1 - cos of the steps to and from each frame; 1 at both ends and where a step is 0. means: (T, D)."""
    steps = unit(means.diff(dim=0))
    curved = means.new_ones(len(means))
    curved[1:-1] = 1 - torch.linalg.vecdot(steps[:-1], steps[1:])
    return curved
