"""EVS, Efficient Video Sampling (Bagrov et al. 2025, arXiv 2510.14624): drop what equals the frame before.

The first frame is kept whole; of the other frames, the tokens of the whole video that are least like (cosine) the
same place one frame earlier.

Deviations: a budget below one frame, where the published method keeps the first frame and overshoots, is met by
giving the first frame half of it, evenly spaced, so that later frames are seen at all.
"""

import torch

from ..config import AOTConfig
from ..ops.common import unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import number_in
from .common import even_indices, rounded_share, select_tokens


@register("evs", options={"first_share": number_in(None, 0, 1)}, tuned={"first_share": 0.25})
def evs(video: VideoTokens, config: AOTConfig) -> Selection:
    """The first frame and the places that change most.

    Option: first_share, the most of the budget that the first frame takes, evenly spaced (None: it is whole).
    """
    per_frame, first_share = video.tokens_per_frame, config.options["first_share"]
    budget = config.budget(video.frames, per_frame)
    # the first frame: all of it where the budget has room, else half of the budget, rounded up
    first = per_frame if budget >= per_frame else (budget + 1) // 2
    if video.frames == 1:
        first = budget
    elif first_share is not None:
        first = min(first, rounded_share(budget, first_share))
    shown = even_indices(first, per_frame, video.features.device)
    units = unit(video.pooled)
    change = units.new_full(units.shape[:2], -torch.inf)
    change[1:] = (1 - torch.linalg.vecdot(units[1:], units[:-1])).clamp_min(0)
    change[0].index_fill_(0, shown, torch.inf)
    order = change.flatten().argsort(descending=True, stable=True)
    index = order[:budget].sort().values
    kind = torch.where(index < per_frame, int(TokenKind.GLOBAL), int(TokenKind.DYNAMIC))
    return select_tokens(video, index, kind=kind, trace={"change": change})
