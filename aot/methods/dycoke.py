"""DyCoke's temporal token merging (Tao et al., CVPR 2025, arXiv 2411.15024): the part before the language model.

Frames go in windows of four. The first is kept whole; the second is compared with the first, the third with the first
and the fourth with the third, place by place (cosine), and each keeps the same share of its least similar places.
Published: a share of 0.3, 47.5 % in all; at 0 it ends at 25 %.

Deviations: the share follows from the budget. Where whole frames would take more than 10/13 of it (their part at the
paper's hardest setting, a share of 0.1), windows are widened to the shortest length at which they do not; frame o of a
window is then compared with frame o & (o - 1), which for four frames is the published rule. A budget too small for
one whole frame gives the first frame that part of it, evenly spaced. The pruning of the KV cache during decoding is
not part of this file.
"""

import torch

from ..config import AOTConfig
from ..ops.common import unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from .common import best_by_quota, even_indices

WINDOW = 4
WHOLE_FRAMES, ALL_FRAMES = 10, 13  # 1 whole frame to 3 of a tenth: whole frames take 10/13 of the tokens


@register("dycoke")
def dycoke(video: VideoTokens, config: AOTConfig) -> Selection:
    """Every window's first frame, and what changes in the others."""
    frames, per_frame = video.frames, video.tokens_per_frame
    device = video.features.device
    budget = config.budget(frames, per_frame)
    window = window_length(budget, frames, per_frame)
    offset = torch.arange(frames, device=device) % window
    whole = offset == 0
    # the frame that each is compared with: its offset without the lowest bit
    reference = torch.arange(frames, device=device) - (offset & -offset)
    units = unit(video.pooled)
    change = 1 - torch.linalg.vecdot(units, units[reference])
    windows = -(-frames // window)
    shown = first_frame_count(budget, frames, per_frame) if windows == 1 else per_frame
    change[0].index_fill_(0, even_indices(shown, per_frame, device), torch.inf)
    others = max(1, frames - windows)
    rest = (budget - windows * shown) / others
    quota = torch.where(whole, float(shown), rest).double()
    index = best_by_quota(change, quota, budget)
    kind = torch.where(whole[index // per_frame], int(TokenKind.GLOBAL), int(TokenKind.DYNAMIC))
    tokens = video.pooled.flatten(0, 1).index_select(0, index)
    return Selection.from_indices(
        tokens, index, video.pooled_grid, kind=kind, trace={"change": change} if video.trace else None
    )


def window_length(budget: int, frames: int, per_frame: int) -> int:
    """Frames of a window: 4, or the fewest whose whole frames take at most 10/13 of the budget (all frames at most)."""
    for window in range(WINDOW, frames):
        if ALL_FRAMES * -(-frames // window) * per_frame <= WHOLE_FRAMES * budget:
            return window
    return max(WINDOW, frames)


def first_frame_count(budget: int, frames: int, per_frame: int) -> int:
    """Tokens of the one whole frame: all, or its part of the budget where that is less; the budget where T is 1."""
    return budget if frames == 1 else min(per_frame, -(-WHOLE_FRAMES * budget // ALL_FRAMES))
