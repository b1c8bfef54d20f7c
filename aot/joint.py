"""The default schedule: anchors that leave the least to be transported, then the transport of the rest onto them.

A video is cut in short clips, and nothing crosses from one to the next; all are processed at once. The budget is exact
and known for every clip before a feature is seen, so the device is never waited for (but once for dynamic clips, and
while index tensors are made for a shape that is new), and a stream gives the tokens that the whole video gives.
"""

from itertools import accumulate

import torch

from .carry import clip_cost, highest_cost, transport_clips
from .clips import Clips, lay_out
from .config import AOTConfig
from .ops import cover, novelty
from .pooling import pool_tokens
from .ranks import true_indices
from .result import Kind, Selection, kept
from .scores import Weights, token_weights
from .temporal import default_clip_length, short_clips
from .video import VideoTokens

# a step of the choice of global anchors looks at every 8th token of a clip, but at 64 or so at least
EVERY, LOOKS = 8, 64


def compress_joint(video: VideoTokens, config: AOTConfig) -> Selection:
    """Default schedule of the method "aot"; see docs/method.md for each step."""
    frames, per_frame = video.frames, video.tokens_per_frame
    budget = config.budget(frames, per_frame)
    lengths = short_clips(video, config, budget)
    if budget == frames * per_frame:
        index = torch.arange(budget, device=video.features.device)
        return kept(video.pooled.flatten(0, 1), index, video.pooled_grid, clips=lengths)
    weights = token_weights(
        frame_change(video, config),
        torch.stack([video.pooled_shallow, video.pooled_deep]),
        attention_power=config.attention_power,
        change_power=config.change_power,
    )
    counts = clip_budgets(lengths, per_frame, config)
    clips = lay_out(lengths, counts, video.pooled_grid, config.global_ratio, video.features.device)
    cost = clip_cost(video, clips, config)
    local, global_ = choose_tokens(cost, weights, clips, per_frame, config)
    chosen = local | global_
    index = true_indices(clips.flat(chosen), budget)
    tokens, mass, trace = transport_clips(video, cost, chosen, index, clips, config)
    if video.trace:
        counts = torch.zeros(frames, dtype=torch.int64, device=index.device)
        counts = counts.index_add_(0, index // per_frame, torch.ones_like(index))
        trace |= {"shallow": video.pooled_shallow, "deep": video.pooled_deep, "frame_budget": counts}
        trace |= {"local_score": weights.local, "global_score": weights.global_, "change": weights.change}
    return kept(
        tokens,
        index,
        video.pooled_grid,
        kind=torch.where(clips.flat(local)[index], int(Kind.LOCAL), int(Kind.GLOBAL)),
        mass=mass,
        clips=lengths,
        trace=trace,
    )


def frame_change(video: VideoTokens, config: AOTConfig) -> torch.Tensor:
    """(T, P) 1 - cos with the same place one frame earlier; in a video's first frame, with the mean of the frame."""
    if video.before is None:
        change, rarity = novelty(video.pooled, backend=config.backend)
        return torch.cat([rarity[:1], change[1:]])
    earlier = pool_tokens(video.before, video.grid, video.pool)
    return novelty(torch.cat([earlier, video.pooled]), backend=config.backend)[0][1:]


def clip_budgets(clips: list[int], per_frame: int, config: AOTConfig) -> list[int]:
    """Tokens of each clip: after every clip ⌊retention · frames so far · P⌋ are out in all, but one a clip at least.

    Clips are at most as many as the budget, so a token that a clip lacks is taken from the fullest one.
    """
    spent = [0, *(config.budget(end, per_frame) for end in accumulate(clips))]
    counts = [after - before for before, after in zip(spent, spent[1:], strict=False)]
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def choose_tokens(
    cost: torch.Tensor, weights: Weights, clips: Clips, per_frame: int, config: AOTConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Local and global anchors, two disjoint (C, n) bool masks; cost: (C, n, n). per_frame: P.

    Local: of the share 1 - g a ninth in each window of the clip, ⌊·/9⌋, by what they explain of their window. Global:
    the rest, by what they explain of the clip beyond the local ones.
    """
    local, windows = torch.zeros_like(clips.real), clips.windows
    settings = {"unexplained": highest_cost(clips, config), "backend": config.backend}
    if windows is not None:
        member, inside = windows.member, windows.inside
        chosen = cover(
            cost[:, member.unsqueeze(2), member.unsqueeze(1)].flatten(0, 1),
            weights.local.flatten()[windows.token] * inside,
            None,
            inside,
            windows.quota,
            steps=windows.most,
            **settings,
        )
        local = chosen.view(len(local), -1)[:, windows.back]
    usual = (config.clip_length or default_clip_length(per_frame)) * per_frame  # the last clip goes like the others
    global_ = cover(
        cost,
        clips.gather(weights.global_),
        local,
        clips.real,
        clips.quota,
        steps=clips.most,
        every=max(1, min(EVERY, usual // LOOKS)),
        **settings,
    )
    return local, global_
