"""DyCoke's temporal token merging (Tao et al., CVPR 2025, arXiv 2411.15024): the part before the language model.

Frames go in windows of four. The first is kept whole; the second is compared with the first, the third with the first
and the fourth with the third, place by place (cosine), and each keeps the same share of its least similar places.
Published: a share of 0.3, 47.5 % in all; at 0 it ends at 25 %.

Deviations: the share follows from the budget. Where whole frames would take more than 10/13 of it (their part at the
paper's hardest setting, a share of 0.1), windows are widened to the shortest length at which they do not; frame o of a
window is then compared with frame o & (o - 1), which for four frames is the published rule. A budget too small for
one whole frame gives the first frame that part of it, evenly spaced. The public code leaves the third frame of the last
window whole. The pruning of the KV cache during decoding is not part of this file.

The paper ends at 25 %. Below, windows of two that show three quarters of the budget in their first frames, evenly
spaced, are the better continuation: that is the tuned variant.
"""

import torch

from ..budget import even_budgets
from ..config import AOTConfig
from ..ops.common import unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import count_from, number_in
from .common import best_by_quota, even_indices, rounded_share, select_tokens

WINDOW = 4
WHOLE_FRAMES, ALL_FRAMES = 10, 13  # 1 whole frame to 3 of a tenth: whole frames take 10/13 of the tokens


@register(
    "dycoke",
    options={"window": count_from(None, 2), "first_share": number_in(None, 0, 1)},
    tuned={"window": 2, "first_share": 0.75},
)
def dycoke(video: VideoTokens, config: AOTConfig) -> Selection:
    """Every window's first frame, and what changes in the others.

    Options: window, its frames (None: the published rule); first_share of the budget that the first frames share (None:
    they are whole).
    """
    frames, per_frame = video.frames, video.tokens_per_frame
    device = video.features.device
    budget = config.budget(frames, per_frame)
    window = config.options["window"] or window_length(budget, frames, per_frame)
    offset = torch.arange(frames, device=device) % window
    whole = offset == 0
    # the frame that each is compared with: its offset without the lowest bit
    reference = torch.arange(frames, device=device) - (offset & -offset)
    units = unit(video.pooled)
    change = 1 - torch.linalg.vecdot(units, units[reference])
    shown = first_frame_counts(budget, frames, per_frame, window, config.options["first_share"])
    for start, number_shown in zip(range(0, frames, window), shown, strict=True):
        change[start].index_fill_(0, even_indices(number_shown, per_frame, device), torch.inf)
    quota = torch.full((frames,), (budget - sum(shown)) / max(1, frames - len(shown)), dtype=torch.float64)
    quota[::window] = torch.tensor(shown, dtype=torch.float64)
    index = best_by_quota(change, quota.to(device), budget)
    kind = torch.where(whole[index // per_frame], int(TokenKind.GLOBAL), int(TokenKind.DYNAMIC))
    return select_tokens(video, index, kind=kind, trace={"change": change})


def first_frame_counts(budget: int, frames: int, per_frame: int, window: int, share: float | None) -> list[int]:
    """Tokens of the first frame of each window: all, or an even part of `share` of the budget.

    One window whose whole frame is too much shows its part of the budget.
    """
    windows = -(-frames // window)
    if share is not None:
        return [min(per_frame, part) for part in even_budgets(rounded_share(budget, share), windows)]
    if windows == 1:
        return [budget if frames == 1 else min(per_frame, -(-WHOLE_FRAMES * budget // ALL_FRAMES))]
    most = min(per_frame, budget // windows)  # less than a frame only where a window was asked for
    return [most] * windows


def window_length(budget: int, frames: int, per_frame: int) -> int:
    """Frames of a window: 4, or the fewest whose whole frames take at most 10/13 of the budget (all frames at most)."""
    for window in range(WINDOW, frames):
        if ALL_FRAMES * -(-frames // window) * per_frame <= WHOLE_FRAMES * budget:
            return window
    return max(WINDOW, frames)
