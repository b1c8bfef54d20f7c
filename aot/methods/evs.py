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
from .common import even_indices, rounded_share


@register("evs", options={"first_share": number_in(None, 0, 1)}, tuned={"first_share": 0.25})
def evs(video: VideoTokens, config: AOTConfig) -> Selection:
    """The first frame and the places that change most.

    Option: first_share, the most of the budget that the first frame takes, evenly spaced (None: it is whole).
    """
    per_frame = video.tokens_per_frame
    budget = config.budget(video.frames, per_frame)
    first = first_frame_count(budget, video.frames, per_frame)
    if config.options["first_share"] is not None and video.frames > 1:
        first = min(first, rounded_share(budget, config.options["first_share"]))
    shown = even_indices(first, per_frame, video.features.device)
    units = unit(video.pooled)
    change = torch.full(units.shape[:2], -torch.inf, device=units.device)
    change[1:] = (1 - torch.linalg.vecdot(units[1:], units[:-1])).clamp_min(0)
    change[0].index_fill_(0, shown, torch.inf)
    order = change.flatten().argsort(descending=True, stable=True)
    index = order[:budget].sort().values
    kind = torch.where(index < per_frame, int(TokenKind.GLOBAL), int(TokenKind.DYNAMIC))
    tokens = video.pooled.flatten(0, 1).index_select(0, index)
    return Selection.from_indices(tokens, index, video.pooled_grid, kind=kind, trace={"change": change})


def first_frame_count(budget: int, frames: int, per_frame: int) -> int:
    """Tokens of the first frame: all of them where the budget has room, else half of the budget, rounded up."""
    if frames == 1:
        return budget
    return per_frame if budget >= per_frame else (budget + 1) // 2
