"""AOT, the default: keep the tokens that leave the least to be transported, then transport the rest onto them.

From top to bottom, as docs/method.md tells it:

1. clips and budgets: the video is cut in short clips, and nothing crosses from one to the next
2. cost of every pair of tokens in a clip, over space and time
3. choice of the kept tokens (anchors) by facility location: global ones, in the whole clip; with a global_ratio below 1
   local ones in windows first; with a distortion only as many of them as a clip needs
4. transport of all other tokens of the clip onto the kept ones
5. merge: a kept token moves towards what it received
6. emission in the order of the video

The budget is exact and known for every clip before a feature is seen, so the device is never waited for (but once for
dynamic clips, with a distortion, and while index tensors are made for a shape that is new), and a stream gives the
tokens that the whole video gives. Variant "paper" of the same method is in `aot_paper.py`.
"""

from dataclasses import replace

import torch

from ..budget import clip_budgets
from ..clips import (
    COST_BYTES,
    MAX_CLIP_TOKENS,
    ClipLayout,
    clip_layout,
    clip_too_long,
    default_clip_length,
    short_clips,
)
from ..config import AOTConfig
from ..ops import (
    aggregate,
    count_sketch,
    facility_location,
    fewest_below,
    merge,
    pair_cost,
    sinkhorn,
    softmax_plan,
    temporal_change,
)
from ..ops.common import at_least_float32, relative_importance, true_indices
from ..ops.sinkhorn import FLOAT32_EXPONENT
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens, joined_masks
from .aot_paper import aot_paper
from .common import select_tokens

# a step of the choice of global anchors looks at every 8th token of a clip, but at 64 or so at least
STRIDE, LOOKED_AT = 8, 64


@register("aot", requires=("shallow", "deep"))
def aot(video: VideoTokens, config: AOTConfig) -> Selection:
    """Anchors that explain a clip, the rest carried onto them by optimal transport."""
    if config.variant == "paper":
        return aot_paper(video, config)
    # 1. clips and budgets
    frames, per_frame = video.frames, video.tokens_per_frame
    budget = config.budget(frames, per_frame)
    lengths = short_clips(video, config, budget)
    if budget == frames * per_frame and config.distortion is None:
        return select_tokens(video, torch.arange(budget, device=video.features.device), clips=lengths)
    longest = max(lengths)
    if longest * per_frame > MAX_CLIP_TOKENS:
        raise clip_too_long(lengths, budget, per_frame, config)
    counts = clip_budgets(lengths, per_frame, config)
    # steps 2 to 6 for as many clips at once as their costs may take memory, one group after the other
    size = max(1, COST_BYTES // (4 * (longest * per_frame) ** 2))
    if len(lengths) <= size:
        return replace(compress_clips(video, lengths, counts, longest, config), clips=lengths)
    parts, spans, first = [], [], 0
    for start in range(0, len(lengths), size):
        group = slice(start, start + size)
        span = video.span(first, first + sum(lengths[group]))
        part = compress_clips(span, lengths[group], counts[group], longest, config)
        # frames, and flat indices in the trace, count from the start of the video
        moved = {name: part.trace[name] + first * per_frame for name in ("anchor", "supplier") if name in part.trace}
        parts.append(replace(part, frame=part.frame + first, trace=part.trace | moved))
        spans.append(span)
        first += span.frames
    video.usable.update(joined_masks(spans))
    return replace(_joined(parts), clips=lengths)


def compress_clips(
    video: VideoTokens, lengths: list[int], counts: list[int], longest: int, config: AOTConfig
) -> Selection:
    """Steps 2 to 6 for clips that are processed at once.

    lengths, counts: frames and kept tokens of each clip. longest: frames of the longest clip, of other groups included.
    """
    layout = clip_layout(
        tuple(lengths), tuple(counts), video.pooled_grid, config.global_ratio, video.features.device, frames=longest
    )
    # 2. cost (C, n, n): (1 - cos) + spatial_weight · distance + temporal_weight · frames apart; a token of another time
    # says what there is, and leaves open whether it still is; wide tokens are compared by sketches
    compared, before = video.pooled, video.pooled_before
    if compared.shape[-1] >= 2 * config.cost_channels:
        compared = count_sketch(compared, config.cost_channels)
        before = None if before is None else count_sketch(before, config.cost_channels)
    weights = {"spatial_weight": config.spatial_weight, "temporal_weight": config.temporal_weight}
    cost = pair_cost(compared, layout.start_frame, longest, grid=video.pooled_grid, backend=config.backend, **weights)
    max_cost = 2 + 2**0.5 * config.spatial_weight + (longest - 1) * config.temporal_weight
    # 3. choice: a token weighs change^c, and with an attention_power above 0 attention^a · change^c, by the shallow
    # layer as local anchor, by the deep one as global
    change = temporal_change(compared, before, backend=config.backend)
    moved = change.clamp_min(1e-6) ** config.change_power  # what stands still counts a little
    local_weight = global_weight = moved
    if config.attention_power > 0:
        importance = torch.stack([video.pooled_shallow, video.pooled_deep])
        local_weight, global_weight = relative_importance(importance) ** config.attention_power * moved
    local = select_local(cost, local_weight, layout, max_cost, config)
    selected = local | select_global(cost, global_weight, local, layout, max_cost, config)
    trace = {}
    if config.distortion is not None:
        clip_weight = global_weight.flatten()[layout.token_index] * layout.valid
        selected, trace["cost_curve"] = fewest_below(cost, clip_weight, selected, config.distortion)
        local, counts = local & selected, selected.sum(dim=1).tolist()
        layout = clip_layout(
            tuple(lengths), tuple(counts), video.pooled_grid, config.global_ratio, cost.device, frames=longest
        )
    # 4. and 5. transport and merge; index: (S,) flat indices t·P + place, ascending
    index = true_indices(selected.flatten()[layout.flat_slot], sum(counts))
    tokens, mass, carried = transport(video, cost, selected, index, layout, max_cost, config)
    # 6. emission
    if video.trace:
        frame = index // video.tokens_per_frame
        trace |= carried
        kept_each = torch.zeros(video.frames, dtype=torch.int64, device=index.device)
        trace |= {"frame_budget": kept_each.index_add_(0, frame, torch.ones_like(index)), "change": change}
        if video.shallow is not None and video.deep is not None:
            trace |= {"shallow": video.pooled_shallow, "deep": video.pooled_deep}
        trace |= {"local_score": local_weight, "global_score": global_weight}
    kind = torch.where(local.flatten()[layout.flat_slot][index], int(TokenKind.LOCAL), int(TokenKind.GLOBAL))
    return Selection.from_indices(tokens, index, video.pooled_grid, kind=kind, mass=mass, trace=trace)


def select_local(
    cost: torch.Tensor, weight: torch.Tensor, layout: ClipLayout, max_cost: float, config: AOTConfig
) -> torch.Tensor:
    """(C, n) bool: a ninth of the share 1 - g in each 3x3 window, so that no part of the frame is forgotten.

    A local anchor is chosen by what it explains of its window. cost: (C, n, n), at most max_cost. weight: (T, P).
    """
    windows = layout.windows
    if windows is None:
        return torch.zeros_like(layout.valid)
    member = windows.member
    chosen = facility_location(
        cost[:, member.unsqueeze(2), member.unsqueeze(1)].flatten(0, 1),  # (C·9, w, w)
        weight.flatten()[windows.token_index] * windows.valid,
        None,
        windows.valid,
        windows.count,
        max_steps=windows.max_count,
        max_cost=max_cost,
        backend=config.backend,
    )
    return chosen.view(len(cost), -1)[:, windows.slot]


def select_global(
    cost: torch.Tensor,
    weight: torch.Tensor,
    local: torch.Tensor,
    layout: ClipLayout,
    max_cost: float,
    config: AOTConfig,
) -> torch.Tensor:
    """(C, n) bool: the rest of each clip's tokens, by what they explain of the clip beyond the local ones.

    cost: (C, n, n), at most max_cost. weight: (T, P). local: (C, n) bool.
    """
    # the stride follows from the usual length of a clip, so that a shorter last clip goes like the others
    per_frame = weight.shape[1]
    clip_tokens = (config.clip_length or default_clip_length(per_frame)) * per_frame
    return facility_location(
        cost,
        weight.flatten()[layout.token_index] * layout.valid,
        local,
        layout.valid,
        layout.global_count,
        max_steps=layout.max_global,
        max_cost=max_cost,
        stride=max(1, min(STRIDE, clip_tokens // LOOKED_AT)),
        backend=config.backend,
    )


def transport(
    video: VideoTokens,
    cost: torch.Tensor,
    selected: torch.Tensor,
    index: torch.Tensor,
    layout: ClipLayout,
    max_cost: float,
    config: AOTConfig,
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Carries every token that is not selected to the selected ones of its clip, one plan for space and time.

    cost: (C, n, n) of all pairs of a clip, at most max_cost. selected: (C, n) bool, as many per clip as it keeps.
    index: (S,) flat indices of the same tokens, ascending. Returns tokens (S, D) in the input's dtype, masses (S,)
    float32 that sum to T·P, and a trace.

    Anchor marginals are uniform_marginal · M/K + (1 - uniform_marginal) · (what lies nearest to each anchor). At 0 the
    plan has a closed form, else Sinkhorn finds it.
    """
    # sources weigh 1 each; anchors are columns of the cost
    first = layout.token_index[:, :1]
    anchor = torch.where(layout.kept_valid, index[layout.kept_index], first) - first  # (C, K)
    supply = (layout.valid & ~selected).float()
    settings = {"epsilon": config.epsilon, "backend": config.backend}
    plan = softmax_plan(cost, anchor, layout.kept_valid, supply, **settings)  # (C, n, K)
    if config.uniform_marginal > 0 or video.trace:
        anchor_cost = cost.gather(2, anchor.unsqueeze(1).expand(-1, cost.shape[1], -1))
    if config.uniform_marginal > 0:
        uniform = supply.sum(1, keepdim=True) / layout.kept_valid.sum(1, keepdim=True) * layout.kept_valid
        plan = sinkhorn(
            anchor_cost,
            supply,
            torch.lerp(plan.sum(dim=1), uniform, config.uniform_marginal),
            iterations=config.iterations,
            stop={"problem": "marginal", "never": "never"}[config.sinkhorn_stop],
            tolerance=config.tolerance,
            log_domain=max_cost / config.epsilon > FLOAT32_EXPONENT,
            **settings,
        )
    # what each kept token received, and the merge
    received = plan.sum(dim=1).flatten()[layout.kept_slot]
    tokens = video.pooled.flatten(0, 1)[index]
    if config.merge_strength > 0 and config.merge_cap > 0:
        carried = aggregate(plan, video.pooled, layout.start_frame, layout.frames, backend=config.backend)
        carried = carried.flatten(0, 1)[layout.kept_slot]
        merged = merge(
            at_least_float32(tokens), carried, received, strength=config.merge_strength, cap=config.merge_cap
        )
        tokens = merged.to(tokens.dtype)
    trace = {}
    if video.trace:
        trace = {"plan": plan, "cost": anchor_cost, "anchor": anchor + first, "supplier": layout.token_index}
    return tokens, 1 + received, trace


def _joined(parts: list[Selection]) -> Selection:
    """Groups of clips one after the other. In the trace, columns of anchors are padded with 0 to the fullest clip."""
    trace = {}
    for name in parts[0].trace:
        values = [part.trace[name] for part in parts]
        if name in ("plan", "cost", "anchor", "cost_curve"):
            most = max(value.shape[-1] for value in values)
            values = [torch.nn.functional.pad(value, (0, most - value.shape[-1])) for value in values]
        trace[name] = torch.cat(values)
    fields = ("tokens", "frame", "position", "kind", "mass")
    return Selection(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields}, trace=trace)
