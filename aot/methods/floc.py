"""FLoC (Cho et al., *FLoC: Facility Location-Based Efficient Visual Token Compression for Long Video Understanding*,
ICLR 2026, arXiv 2511.00141): the tokens that all others are most like.

The video is cut in chunks of 32 frames. In each the set S of tokens is kept that maximises Σ_v max_{u∈S} cos(v, u),
chosen greedily. A token's gain only falls as others are chosen, so a gain of an earlier step bounds it (lazy greedy):
the token of the largest bound is kept once its bound was computed for the present S.

Deviations: the budget is exact, after each chunk ⌊retention · frames so far · P⌋ of all tokens, one at least. Of equal
gains the earlier token goes first. No public code was found; this follows the paper. It reads back a number for each
gain that is computed, so it waits for a device often.
"""

import torch

from ..config import AOTConfig
from ..ops.common import unit
from ..registry import register
from ..types import Selection, VideoTokens
from ..validation import count_from
from .common import select_tokens


@register("floc", options={"chunk": count_from(32)})
def floc(video: VideoTokens, config: AOTConfig) -> Selection:
    """Facility location on cosines. Option: chunk, frames that are chosen from at once."""
    chunk_frames = config.options["chunk"]
    per_frame, flat = video.tokens_per_frame, video.pooled.flatten(0, 1)
    index, kept = [], 0
    for first in range(0, video.frames, chunk_frames):
        chunk = flat[first * per_frame : (first + chunk_frames) * per_frame]
        share = config.budget(first + len(chunk) // per_frame, per_frame) - kept
        units = unit(chunk)
        index.append(lazy_greedy(units @ units.T, share) + first * per_frame)
        kept += share
    return select_tokens(video, torch.cat(index))


def lazy_greedy(likeness: torch.Tensor, most: int) -> torch.Tensor:
    """(most,) int64 ascending: the tokens that greedily maximise Σ_v max(0, max_{u kept} likeness_vu).

    likeness: (n, n) float32, symmetric.
    """
    if most == len(likeness):
        return torch.arange(most, device=likeness.device)
    covered = likeness.new_zeros(len(likeness))  # how much each token is like the kept one it is most like
    bound = likeness.clamp_min(0).sum(dim=1)
    kept: list[int] = []
    for _ in range(most):
        computed: set[int] = set() if kept else set(range(len(likeness)))
        while (best := int(bound.argmax())) not in computed:
            bound[best] = (likeness[best] - covered).clamp_min_(0).sum()
            computed.add(best)
        kept.append(best)
        bound[best] = -torch.inf
        covered = torch.maximum(covered, likeness[best])
    return torch.tensor(sorted(kept), dtype=torch.int64, device=likeness.device)
