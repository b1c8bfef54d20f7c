"""AOT as the paper and the released code order it, for the presets "paper" and "released".

From top to bottom:

1. anchors of every frame on the tower grid (section 3.1): the most attended tokens, local ones in 3x3 windows
2. intra-frame transport (section 3.2): the other tokens of the frame merge into its anchors
3. pooling: a pooled token is kept where the pooled mask of anchors is at least 1/2
4. inter-frame transport along clips (section 3.3): later frames merge into the first one's anchors
5. emission

Token counts follow from the data. The device is waited for three times a video (longest frame, emitted tokens, newline
rows at most), whatever T is.
"""

from dataclasses import dataclass, replace

import torch

from ..clips import clip_lengths, window_ids, window_sizes
from ..config import AOTConfig
from ..errors import AOTError
from ..ops import aggregate, merge, merge_clips, pair_cost, sinkhorn
from ..ops.common import at_least_float32, rank_descending, relative_importance, true_indices, unit
from ..ops.sinkhorn import FLOAT32_EXPONENT
from ..spatial_pooling import pool_tokens
from ..types import Selection, TokenKind, VideoTokens


@dataclass(frozen=True)
class PooledFrames:
    """Pooled frames with anchors merged in; P' counts a newline column where the release puts one in.

    tokens: (T, P', D) float32
    keep: (T, P') bool
    position: (P', 2) int64
    kind: (T, P') int64
    """

    tokens: torch.Tensor
    keep: torch.Tensor
    position: torch.Tensor
    kind: torch.Tensor


def aot_paper(video: VideoTokens, config: AOTConfig) -> Selection:
    """Variant "paper" of the method "aot"."""
    local, global_, count = tower_anchors(video, config)
    pooled, trace = pooled_frames(video, local, global_, count, config)
    all_newlines = config.newlines == "all" and video.newline is not None
    if all_newlines and video.newline_position == "grid":
        pooled = with_newline_column(pooled, video)
    clips = clip_lengths(video, config) if config.inter_frame else [1] * video.frames
    selection = merge_and_emit(pooled, video, clips, config)
    # the release never appends the final newline of a one-token model
    done = all_newlines and video.newline_position in ("grid", "one_token")
    return replace(
        selection,
        tokens=selection.tokens.to(video.features.dtype),
        newlines_done=done,
        clips=clips if config.inter_frame else None,
        trace=trace | selection.trace,
    )


def tower_anchors(video: VideoTokens, config: AOTConfig) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Step 1: local and global masks (T, N) on the tower grid and the anchors per frame, the same for all frames.

    ⌊int(K·(1 - g)) / 9⌋ per window and K - int(K·(1 - g)) over the frame, so that K = 196 gives 90 + 98.
    """
    tokens = video.features.shape[1]
    local_each = int(config.num_anchors * (1 - config.global_ratio))
    per_window, over_frame = local_each // 9, config.num_anchors - local_each
    count = sum(min(per_window, size) for size in window_sizes(video.grid)) + over_frame
    if count > tokens:
        raise AOTError(f"num_anchors {config.num_anchors} does not fit {tokens} tokens per frame; lower it.")
    if count == 0:
        raise AOTError(f"num_anchors {config.num_anchors} leaves no anchor for any of the 9 windows; raise it.")
    windows = window_ids(video.grid, video.features.device)
    return *choose_anchors(per_window, over_frame, video.shallow_importance, video.deep_importance, windows), count


def choose_anchors(
    per_window: int, over_frame: int, shallow: torch.Tensor, deep: torch.Tensor, windows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Local and global anchors of every frame, two disjoint (T, N) bool masks (section 3.1).

    per_window: anchors of each window, the best by the shallow importance. over_frame: of the other tokens, the best by
    the deep one. shallow, deep: (T, N). windows: (N,) of `window_ids`.
    """
    # rank inside the window: order by score, then stably by window
    order = shallow.argsort(dim=-1, descending=True, stable=True)
    order = order.gather(-1, windows[order].argsort(dim=-1, stable=True))
    sizes = (windows.unsqueeze(-1) == torch.arange(9, device=windows.device)).sum(0)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes, output_size=windows.shape[0])
    rank = (torch.arange(order.shape[-1], device=order.device) - starts).expand_as(order)
    local = torch.empty_like(order).scatter_(-1, order, rank) < per_window
    others = deep.masked_fill(local, -torch.inf)
    return local, (rank_descending(others) < over_frame) & ~local


def pooled_frames(
    video: VideoTokens, local: torch.Tensor, global_: torch.Tensor, count: int, config: AOTConfig
) -> tuple[PooledFrames, dict]:
    """Steps 2 and 3: the rest merged into the anchors, pooled; kept where their mask pools to 1/2."""
    mask = local | global_
    anchor = true_indices(mask, count)
    merged, plan = intra_frame(video.tower, anchor, video.grid, config, video.deep_importance)
    width = merged.shape[-1]
    full = at_least_float32(video.tower).scatter(1, anchor.unsqueeze(-1).expand(-1, -1, width), merged)
    tokens = pool_tokens(full, video.grid, video.pool)
    keep = pool_tokens(mask.float(), video.grid, video.pool) >= 0.5
    mostly_local = pool_tokens(local.float(), video.grid, video.pool) > pool_tokens(
        global_.float(), video.grid, video.pool
    )
    kind = torch.where(mostly_local, int(TokenKind.LOCAL), int(TokenKind.GLOBAL))
    height, columns = video.pooled_grid
    place = torch.arange(height * columns, device=tokens.device)
    position = torch.stack([place // columns, place % columns], dim=-1)
    trace = {}
    if video.trace:
        trace = {"anchor_mask": mask, "merged_anchors": merged, "pooled": tokens, "pooled_mask": keep}
        trace |= {"intra_plan": plan, "anchor": anchor, "tower_grid": video.grid, "frame_budget": keep.sum(1)}
        trace |= {"shallow": video.pooled_shallow, "deep": video.pooled_deep}
    return PooledFrames(tokens, keep, position, kind), trace


def intra_frame(
    features: torch.Tensor,
    anchor: torch.Tensor,
    grid: tuple[int, int],
    config: AOTConfig,
    importance: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Step 2, merged anchors of every frame: each frame's other tokens transported onto its anchors (section 3.2).

    features: (T, N, D). anchor: (T, K) indices of the anchors, ascending. importance: (T, N), read by source_mass
    "attention". Returns merged anchors (T, K, D) float32 and plans (T, N, K), whose rows are 0 for the anchors
    themselves. Marginals: 1/M and 1/K when source_mass is "normalised", 1 and M/K when it is "unit"; "attention"
    shares the M of "unit" by importance.
    """
    frames, tokens, width = features.shape
    count, sources = anchor.shape[1], tokens - anchor.shape[1]
    kept = at_least_float32(features.gather(1, anchor.unsqueeze(-1).expand(-1, -1, width)))
    # cost of each token to the anchors of its frame
    each = torch.arange(frames, device=features.device)
    flat = anchor + each.unsqueeze(1) * tokens
    cost = pair_cost(features, each, 1, flat, grid=grid, spatial_weight=config.spatial_weight, backend=config.backend)
    # what each source weighs
    supply = torch.ones(frames, tokens, dtype=torch.float32, device=features.device).scatter_(1, anchor, 0.0)
    if config.source_mass == "attention":
        supply = supply * relative_importance(importance.float() * supply)
        supply = supply * (max(1, sources) / supply.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny))
    scale = 1 / max(1, sources) if config.source_mass == "normalised" else 1.0
    # plan and merge
    plan = sinkhorn(
        cost,
        supply * scale,
        torch.full((frames, count), sources * scale / count, dtype=torch.float32, device=features.device),
        epsilon=config.epsilon,
        iterations=config.iterations,
        stop={"problem": "marginal", "batch": "change_batch", "never": "never"}[config.sinkhorn_stop],
        tolerance=config.tolerance,
        log_domain=(2 + 2**0.5 * config.spatial_weight) / config.epsilon > FLOAT32_EXPONENT,
        backend=config.backend,
    )
    carried = aggregate(plan, features, each, 1, backend=config.backend)
    merged = merge(kept, carried, plan.sum(1), strength=config.merge_strength, cap=config.merge_cap)
    # the release mixes in the mean of each anchor and the tokens that are most like it
    if config.hard_assignment > 0:
        cosine = torch.bmm(unit(features), unit(kept).transpose(1, 2))
        nearest = cosine.argmax(-1, keepdim=True) == torch.arange(count, device=features.device)
        nearest = nearest * supply.unsqueeze(-1)
        total = kept + aggregate(nearest, features, each, 1, backend=config.backend)
        merged = merged.lerp(total / (1 + nearest.sum(1)).unsqueeze(-1), config.hard_assignment)
    return merged, plan


def with_newline_column(pooled: PooledFrames, video: VideoTokens) -> PooledFrames:
    """Every row of every frame gets a newline behind it that is kept and takes part in what follows."""
    height, width = video.pooled_grid
    frames, _, dim = pooled.tokens.shape

    def widen(values: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        rows = values.unflatten(1, (height, width))
        return torch.cat([rows, column.to(rows).expand(frames, height, 1, *rows.shape[3:])], dim=2).flatten(1, 2)

    place = torch.arange(height * (width + 1), device=pooled.keep.device)
    return PooledFrames(
        tokens=widen(pooled.tokens, video.newline.to(pooled.tokens.device)),
        keep=widen(pooled.keep, torch.ones((), device=place.device)),
        position=torch.stack([place // (width + 1), place % (width + 1)], dim=-1),
        kind=widen(pooled.kind, torch.full((), int(TokenKind.NEWLINE), device=place.device)),
    )


@dataclass(frozen=True)
class PaddedClips:
    """Kept pooled tokens by clip: C clips, L frames in the longest, K tokens in the fullest frame.

    tokens: (C, L, K, D) float32
    present: (C, L, K) bool, False for padding
    mass: (C, L, K) float32, the P tokens of a frame shared evenly by its kept ones
    frame: (C, L, K) int64 frame of the video
    place: (C, L, K) int64 place in the frame
    several: (C,) bool, the clip has more than one frame
    """

    tokens: torch.Tensor
    present: torch.Tensor
    mass: torch.Tensor
    frame: torch.Tensor
    place: torch.Tensor
    several: torch.Tensor


def pad_clips(pooled: PooledFrames, video: VideoTokens, clips: list[int], config: AOTConfig) -> PaddedClips:
    """The kept tokens of every frame, by clip and position in it. clips: lengths in frames."""
    device = pooled.keep.device
    visual = pooled.keep & (pooled.kind != TokenKind.NEWLINE)
    counts = pooled.keep.sum(1)
    most, most_visual = torch.stack([counts.max(), visual.sum(1).max()]).tolist()
    if most_visual == 0:
        raise AOTError(f"No token survives the pooling with num_anchors={config.num_anchors}; raise it.")
    place = true_indices(pooled.keep, most)  # (T, K); beyond a frame's count arbitrary
    mass = visual * (video.tokens_per_frame / visual.sum(1, keepdim=True).clamp_min(1).float())
    # (C, L): a short clip repeats its last frame
    length = torch.tensor(clips, device=device).unsqueeze(1)
    step = torch.arange(max(clips), device=device)
    frame = length.cumsum(0) - length + torch.minimum(step, length - 1)
    present = torch.arange(most, device=device) < counts[frame].unsqueeze(-1)
    place, frame_each = place[frame], frame.unsqueeze(-1)
    return PaddedClips(
        tokens=pooled.tokens[frame_each, place],
        present=present & (step < length).unsqueeze(-1),
        mass=mass[frame_each, place].float(),
        frame=frame_each.expand_as(place),
        place=place,
        several=length[:, 0] > 1,
    )


def merge_and_emit(pooled: PooledFrames, video: VideoTokens, clips: list[int], config: AOTConfig) -> Selection:
    """Steps 4 and 5: inter-frame transport, and the emission order of each clip.

    "twice": frame 0's anchors as they were, dynamic tokens of later frames, updated anchors (not again in a
    clip of one frame). "once": updated anchors, then dynamic tokens.
    """
    # 4. later frames merge into the anchors, the tokens of frame 0
    clip = pad_clips(pooled, video, clips, config)
    merged = merge_clips(
        clip.tokens,
        clip.present,
        clip.mass,
        epsilon=config.epsilon,
        iterations=config.iterations,
        stop={"problem": "marginal", "batch": "change", "never": "never"}[config.sinkhorn_stop],
        tolerance=config.tolerance,
        temporal_sigma=config.temporal_sigma,
        keep_ratio=config.keep_ratio if config.dynamic_rule == "quantile" else None,
        threshold=config.dynamic_threshold,
        strength=config.inter_scale,
        cap=config.merge_cap,
        backend=config.backend,
    )
    # 5. which are emitted, (C, L+1, K): updated anchors last ("twice") or first ("once"), originals only in "twice"
    twice = config.emit_anchors == "twice"
    anchors = clip.present[:, :1]
    updated = anchors & clip.several.view(-1, 1, 1) if twice else anchors
    original = anchors if twice else torch.zeros_like(anchors)

    def arrange(body: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
        return torch.cat([body, copies] if twice else [copies, body], dim=1).flatten(0, 2)

    emitted = arrange(torch.cat([original, merged.dynamic[:, 1:]], dim=1), updated)
    index = true_indices(emitted, int(emitted.sum()))
    mass = clip.mass.clone()
    mass[:, :1] *= ~updated  # a copy that is emitted again stands for nothing of its own
    kinds = pooled.kind[clip.frame, clip.place]
    later = torch.where(kinds[:, 1:] == TokenKind.NEWLINE, kinds[:, 1:], int(TokenKind.DYNAMIC))
    kinds = torch.cat([kinds[:, :1], later], dim=1)
    trace = {}
    if video.trace:
        trace = {"inter_plans": merged.plans, "inter_frame": clip.frame[..., 0], "inter_present": clip.present}
        trace |= {"inter_position": pooled.position[clip.place], "inter_dynamic": merged.dynamic}
    return Selection(
        tokens=arrange(clip.tokens, merged.anchors.unsqueeze(1))[index],
        frame=arrange(clip.frame, clip.frame[:, :1])[index],
        position=pooled.position[arrange(clip.place, clip.place[:, :1])[index]],
        kind=arrange(kinds, kinds[:, :1])[index],
        mass=arrange(mass, merged.mass.unsqueeze(1))[index],
        newline_frame=arrange(clip.frame, clip.frame[:, -1:] if twice else clip.frame[:, :1])[index],
        trace=trace,
    )
