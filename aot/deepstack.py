"""DeepStack: rows of earlier vision layers, which go with the tokens of a video and are merged as these are."""

import torch

from .ops import merge
from .ops.common import without_autocast
from .types import CompressedVideo


def merge_deepstack(video: CompressedVideo, rows: torch.Tensor) -> torch.Tensor:
    """(S, R) rows of the kept tokens, merged as these were.

    rows: (T·P, R), one for each pooled token. video: without newline tokens, with the trace of the method "aot". By the
    plan a kept row moves towards those that were carried to its token. Without such a trace, and for other methods, it
    is the row of its place.
    """
    height, width = video.grid
    index = (video.frame * height + video.position[:, 0]) * width + video.position[:, 1]
    kept, trace, config = rows[index], video.trace or {}, video.config
    if "supplier" not in trace or min(config.merge_strength, config.merge_cap) <= 0:
        return kept
    plan = trace["plan"]  # (C, n, K)
    mass = plan.sum(1)
    with without_autocast(rows.device):
        carried = torch.bmm(plan.transpose(1, 2), rows.float()[trace["supplier"]])  # (C, K, R)
    # to the tokens of the video, of which each is kept once; padding receives nothing
    received = mass.new_zeros(len(rows)).index_add_(0, trace["anchor"].flatten(), mass.flatten())
    brought = carried.new_zeros(rows.shape).index_add_(0, trace["anchor"].flatten(), carried.flatten(0, 1))
    strength, cap = config.merge_strength, config.merge_cap
    return merge(kept.float(), brought[index], received[index], strength=strength, cap=cap).to(rows.dtype)
