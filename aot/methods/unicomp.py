"""UniComp (Yuan et al., *UniComp: Rethinking Video Compression Through Informational Uniqueness*, CVPR 2026,
arXiv 2512.03575): what nothing else can stand for is kept.

1. Frames in a row whose description (mean token) is within 1 - cos <= u_f = 0.005 of that of the group's first frame
   are averaged, at most ⌊1/r⌋ of them. Of F groups each goes on with the description and the attention keys of its
   first frame.
2. A group's share of the budget is softmax(√F · (mean likeness of all descriptions - own mean likeness)), rounded
   down and at most twice an even one; what is left over goes evenly to those below that.
3. In a group tokens are taken in the order of their mean likeness to the others, the least first, by cosines of keys.
   One within 1 - cos < u_c = 0.2 of a token taken before is covered and stays behind. A token taken becomes the mean
   of itself and of the mean of all within u_c of it.
4. The first tokens of this order are kept, up to the group's share. What a group with fewer cannot use goes evenly to
   the others.

Deviations: frames are described by the mean of their pooled tokens, since the checkpoints lack SigLIP's pooling head
that the published code reads. Its counts stay below the budget; here covered tokens fill up, in the same order and
evenly between groups. A mean is placed in the first frame of its group. Masses share a token that is not kept evenly
between the kept ones that cover it; what none covers is dropped.
"""

import math

import torch

from ..config import AOTConfig
from ..ops.common import at_least_float32, rank_descending, unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import number_in
from .common import frame_segments, segment_means


@register(
    "unicomp",
    options={
        "frame_threshold": number_in(0.005, 0, 2),
        "token_threshold": number_in(0.2, 0, 2, above=True),
    },
    requires=("keys",),
    tuned={"frame_threshold": 0.001},
)
def unicomp(video: VideoTokens, config: AOTConfig) -> Selection:
    """Options: frame_threshold u_f and token_threshold u_c, in 1 - cos."""
    pooled, per_frame = video.pooled, video.tokens_per_frame
    budget = config.budget(video.frames, per_frame)
    # 1. groups of frames, and their means
    means = unit(pooled.float().mean(dim=1))
    alike = (means @ means.T).double().tolist()
    lengths = frame_groups(alike, 1 - config.options["frame_threshold"], int(min(video.frames, 1 / config.retention)))
    start, segment = frame_segments(lengths, pooled.device)
    length = torch.tensor(lengths, device=pooled.device)
    tokens = segment_means(at_least_float32(pooled), segment, length)
    # 2. shares
    firsts = [sum(lengths[:group]) for group in range(len(lengths))]
    shares = group_shares([[alike[a][b] for b in firsts] for a in firsts], budget, per_frame)
    # 3. tokens taken and covered: near (F, P, P), within u_c of each other
    keys = unit(video.pooled_extra("keys")[start])
    cosine = torch.bmm(keys, keys.transpose(1, 2))
    near = 1 - cosine < config.options["token_threshold"]
    near.diagonal(dim1=1, dim2=2).fill_(True)
    rank = rank_descending(-cosine.mean(dim=-1))
    taken = uncovered(near, rank)
    # 4. the order, taken ones first; a group's place in the common order is what is left of its share
    turn = torch.tensor(shares, device=pooled.device).unsqueeze(1) - rank_descending(taken * per_frame - rank)
    order = (turn - ~taken * (2 * budget + per_frame)).flatten().argsort(descending=True, stable=True)
    kept = order[:budget].sort().values  # flat over groups
    whole = budget == len(lengths) * per_frame
    fused = tokens if whole else (torch.bmm(near.to(tokens), tokens) / near.sum(-1, keepdim=True) + tokens) / 2
    # a kept token stands for itself and its part of those left behind, each shared evenly by the kept ones near it
    stays = torch.zeros_like(taken.flatten()).index_fill_(0, kept, True)
    reached = near & stays.view(len(near), 1, -1) & ~stays.view(len(near), -1, 1)  # (F, left behind, kept)
    shared = reached.float() / reached.sum(-1, keepdim=True).clamp_min(1)
    mass = length.unsqueeze(1) * (1 + shared.sum(dim=1))
    index = start[kept // per_frame] * per_frame + kept % per_frame
    merged = near.flatten(0, 1).sum(-1)[kept] > 1
    return Selection.from_indices(
        fused.flatten(0, 1)[kept].to(pooled.dtype),
        index,
        video.pooled_grid,
        kind=torch.where(merged, int(TokenKind.LOCAL), int(TokenKind.GLOBAL)),
        mass=mass.flatten()[kept],
        clips=lengths,
    )


def frame_groups(alike: list[list[float]], least: float, most: int) -> list[int]:
    """Frames of each group: those in a row whose likeness to the group's first is at least `least`, at most `most`.

    alike: (T, T) likeness of frames.
    """
    lengths, first = [], 0
    for frame in range(len(alike)):
        if frame > first and (alike[frame][first] < least or frame - first == most):
            lengths.append(frame - first)
            first = frame
    return [*lengths, len(alike) - first]


def group_shares(alike: list[list[float]], budget: int, per_frame: int) -> list[int]:
    """Tokens of each of the F groups, at most `budget` in all. alike: (F, F) likeness of their descriptions."""
    groups = len(alike)
    own = [sum(row) / groups for row in alike]
    unique = [math.exp(groups**0.5 * (sum(own) / groups - value)) for value in own]
    most = min(per_frame, max(1, budget // groups * 2))
    shares = [min(most, math.floor(budget * part / sum(unique))) for part in unique]
    # what is left goes evenly to those below the most; a remainder smaller than their number stays
    while (open_ := [group for group, share in enumerate(shares) if share < most]) and (
        more := (budget - sum(shares)) // len(open_)
    ) > 0:
        for group in open_:
            shares[group] = min(most, shares[group] + more)
    return shares


def uncovered(near: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """(F, P) bool: tokens that, in the order of their rank, are near none taken before.

    near: (F, P, P) bool, True on the diagonal. rank: (F, P) int64, 0 first.
    """
    order = rank.argsort(dim=-1)
    group = torch.arange(len(near), device=near.device)
    taken, covered = torch.zeros_like(near[:, 0]), torch.zeros_like(near[:, 0])
    for token in order.unbind(1):
        free = ~covered[group, token]
        taken[group, token] = free
        covered |= near[group, token] & free.unsqueeze(1)
    return taken
