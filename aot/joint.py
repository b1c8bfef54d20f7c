"""The default schedule: anchors that leave the least to be transported, then the transport of the rest onto them.

A video is cut in short clips, and nothing crosses from one to the next; as many are processed at once as
`temporal.COST_BYTES` allow. The budget is exact
and known for every clip before a feature is seen, so the device is never waited for (but once for dynamic clips, and
while index tensors are made for a shape that is new), and a stream gives the tokens that the whole video gives.
"""

from dataclasses import replace
from itertools import accumulate

import torch

from .carry import clip_cost, highest_cost, transport_clips
from .clips import Clips, lay_out
from .config import AOTConfig
from .ops import cover, novelty
from .ranks import true_indices
from .result import Kind, Selection, kept
from .scores import Weights, token_weights
from .temporal import check_clip_size, clip_groups, default_clip_length, short_clips
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
    check_clip_size(lengths, budget, per_frame, config)
    counts = clip_budgets(lengths, per_frame, config)
    groups = clip_groups(lengths, per_frame)
    if len(groups) == 1:
        return replace(compress_clips(video, lengths, counts, max(lengths), config), clips=lengths)
    # one group after the other, so that memory stays that of a group
    parts, first = [], 0
    for group in groups:
        run = lengths[group.start : group.stop]
        span = video.span(first, first + sum(run))
        part = compress_clips(span, run, counts[group.start : group.stop], max(lengths), config)
        parts.append(_shifted(part, first, per_frame))
        for name, usable in span.usable.items():
            if name != "before":
                video.usable[f"{name} from frame {first}"] = usable
        first += sum(run)
    return replace(_join(parts), clips=lengths)


def compress_clips(
    video: VideoTokens, lengths: list[int], counts: list[int], longest: int, config: AOTConfig
) -> Selection:
    """All steps for clips that are processed at once. lengths, counts: frames and kept tokens of each. longest: frames
    of the longest clip, of other groups included."""
    per_frame = video.tokens_per_frame
    weights = token_weights(
        novelty(video.pooled, video.pooled_before, backend=config.backend),
        video.pooled_importance,
        attention_power=config.attention_power,
        change_power=config.change_power,
    )
    clips = lay_out(lengths, counts, video.pooled_grid, config.global_ratio, video.features.device, longest=longest)
    cost = clip_cost(video, clips, config)
    local, global_ = choose_tokens(cost, weights, clips, per_frame, config)
    chosen = local | global_
    index = true_indices(clips.flat(chosen), sum(counts))
    tokens, mass, trace = transport_clips(video, cost, chosen, index, clips, config)
    if video.trace:
        kept_each = torch.zeros(video.frames, dtype=torch.int64, device=index.device)
        kept_each = kept_each.index_add_(0, index // per_frame, torch.ones_like(index))
        trace |= {"frame_budget": kept_each, **dict(zip(("shallow", "deep"), video.pooled_importance, strict=True))}
        trace |= {"local_score": weights.local, "global_score": weights.global_, "change": weights.change}
    return kept(
        tokens,
        index,
        video.pooled_grid,
        kind=torch.where(clips.flat(local)[index], int(Kind.LOCAL), int(Kind.GLOBAL)),
        mass=mass,
        trace=trace,
    )


def _shifted(part: Selection, first: int, per_frame: int) -> Selection:
    """A group whose frames, and flat indices in the trace, count from the video's start; its first frame is `first`."""
    trace = dict(part.trace)
    for name in ("anchor", "supplier"):
        if name in trace:
            trace[name] = trace[name] + first * per_frame
    return replace(part, frame=part.frame + first, trace=trace)


def _join(parts: list[Selection]) -> Selection:
    """Groups of clips one after the other. In the trace, columns of anchors are padded with 0 to the fullest clip."""
    trace = {}
    for name in parts[0].trace:
        values = [part.trace[name] for part in parts]
        if name in ("plan", "cost", "anchor"):
            most = max(value.shape[-1] for value in values)
            values = [torch.nn.functional.pad(value, (0, most - value.shape[-1])) for value in values]
        trace[name] = torch.cat(values)
    fields = ("tokens", "frame", "position", "kind", "mass")
    return Selection(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields}, trace=trace)


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
    windows = clips.windows
    settings = {"unexplained": highest_cost(clips, config), "backend": config.backend}
    if windows is None:
        local = torch.zeros_like(clips.real)
    else:
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
        local = chosen.view(len(cost), -1)[:, windows.back]
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
