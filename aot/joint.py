"""The default schedule: anchors that leave the least to be transported, then the transport of the rest onto them.

A video is cut in short clips, and nothing crosses from one to the next; all are processed at once. The budget is exact
and known for every clip before a feature is seen, so the device is never waited for (once for dynamic clips), and a
stream gives the tokens that the whole video gives.
"""

import torch

from .anchors import true_indices, window_groups
from .carry import Clips, clip_cost, group_clips, highest_cost, transport_clips
from .config import AOTConfig
from .coverage import cover
from .ops import novelty
from .pooling import pool_tokens
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
        video.pooled_shallow,
        video.pooled_deep,
        attention_power=config.attention_power,
        change_power=config.change_power,
    )
    clips = group_clips(lengths, clip_budgets(lengths, per_frame, config), per_frame, video.features.device)
    cost = clip_cost(video, clips, config)
    local, global_ = choose_tokens(cost, weights, clips, video.pooled_grid, config)
    index = true_indices(clips.flat(local | global_), budget)
    tokens, mass, trace = transport_clips(video, cost, index, clips, config)
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
    ends = [sum(clips[: i + 1]) for i in range(len(clips))]
    spent = [0, *(config.budget(end, per_frame) for end in ends)]
    counts = [after - before for before, after in zip(spent, spent[1:], strict=False)]
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def choose_tokens(
    cost: torch.Tensor, weights: Weights, clips: Clips, grid: tuple[int, int], config: AOTConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Local and global anchors, two disjoint (C, n) bool masks; cost: (C, n, n).

    Local: of the share 1 - g a ninth in each window of the clip, ⌊·/9⌋, by what they explain of their window. Global:
    the rest, by what they explain of the clip beyond the local ones.
    """
    local = torch.zeros_like(clips.real)
    unexplained = highest_cost(clips, config)
    each = [int(count * (1 - config.global_ratio)) // 9 for count in clips.counts]
    if max(each) > 0:
        member, inside = window_groups(grid, clips.longest, cost.device)  # (9, w)
        free = (inside & clips.real[:, member]).flatten(0, 1)
        wanted = torch.tensor(each, device=cost.device).repeat_interleave(9, output_size=len(free))
        chosen = cover(
            cost[:, member.unsqueeze(2), member.unsqueeze(1)].flatten(0, 1),
            clips.gather(weights.local)[:, member].flatten(0, 1) * free,
            torch.zeros_like(free),
            free,
            torch.minimum(wanted, free.sum(dim=1)),
            steps=max(each),
            unexplained=unexplained,
        )
        places = member.flatten().expand(len(local), -1)
        local = torch.zeros(local.shape, device=cost.device).scatter_add_(1, places, chosen.view_as(places).float()) > 0
    count = torch.tensor(clips.counts, device=cost.device) - local.sum(dim=1)
    per_frame = grid[0] * grid[1]
    usual = (config.clip_length or default_clip_length(per_frame)) * per_frame  # the last clip goes like the others
    global_ = cover(
        cost,
        clips.gather(weights.global_),
        local,
        clips.real,
        count,
        steps=max(all_ - 9 * few for all_, few in zip(clips.counts, each, strict=True)),
        unexplained=unexplained,
        every=max(1, min(EVERY, usual // LOOKS)),
    )
    return local, global_
