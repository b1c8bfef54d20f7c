"""The paper's order of steps: anchors, intra-frame transport, pooling, inter-frame transport.

Token counts follow from the data. The presets "paper" and "released" run here. The device is waited for
three times a video (longest frame, emitted tokens, newline rows at most), whatever T is.
"""

from dataclasses import dataclass, replace

import torch

from .anchors import choose, grid_window_sizes, window_ids, window_sizes
from .config import AOTConfig
from .errors import AOTError
from .inter_frame import merge_clips
from .pooling import pool_map, pool_tokens
from .ranks import true_indices
from .result import Kind, Selection
from .temporal import clip_lengths
from .transport import intra_frame
from .video import VideoTokens


@dataclass(frozen=True)
class Frames:
    """Pooled frames with anchors merged in; P' counts a newline column where the release puts one in.

    tokens: (T, P', D) float32. keep: (T, P') bool. kind: (T, P') int64. position: (P', 2) int64.
    """

    tokens: torch.Tensor
    keep: torch.Tensor
    position: torch.Tensor
    kind: torch.Tensor


def compress_cascade(video: VideoTokens, config: AOTConfig) -> Selection:
    """Schedule "cascade" of the method "aot"; see docs/method.md for each step."""
    pooled, trace = pooled_frames(video, config)
    inline = config.newlines == "all" and video.newline is not None
    if inline and video.newline_position == "grid":
        pooled = with_newline_column(pooled, video)
    clips = clip_lengths(video, config) if config.inter_frame else [1] * video.frames
    selection = emit(pooled, video, clips, config)
    # the release never appends the final newline of a one-token model
    done = inline and video.newline_position in ("grid", "one_token")
    return replace(
        selection,
        tokens=selection.tokens.to(video.features.dtype),
        newlines_done=done,
        clips=clips if config.inter_frame else None,
        trace=trace | selection.trace,
    )


def pooled_frames(video: VideoTokens, config: AOTConfig) -> tuple[Frames, dict]:
    """Anchors on the tower grid, the rest merged into them, pooled; kept where their mask pools to 1/2."""
    local, global_, count = tower_anchors(video, config)
    mask = local | global_
    anchor = true_indices(mask, count)
    merged, plan = intra_frame(video.tower, anchor, video.grid, config, video.deep_importance)
    width = merged.shape[-1]
    full = video.tower.float().scatter(1, anchor.unsqueeze(-1).expand(-1, -1, width), merged)
    tokens = pool_tokens(full, video.grid, video.pool)
    keep = pool_map(mask.float(), video.grid, video.pool) >= 0.5
    mostly_local = pool_map(local.float(), video.grid, video.pool) > pool_map(global_.float(), video.grid, video.pool)
    kind = torch.where(mostly_local, int(Kind.LOCAL), int(Kind.GLOBAL))
    height, columns = video.pooled_grid
    place = torch.arange(height * columns, device=tokens.device)
    position = torch.stack([place // columns, place % columns], dim=-1)
    trace = {}
    if video.trace:
        trace = {"anchor_mask": mask, "merged_anchors": merged, "pooled": tokens, "pooled_mask": keep}
        trace |= {"intra_plan": plan, "anchor": anchor, "tower_grid": video.grid, "frame_budget": keep.sum(1)}
        trace |= {"shallow": video.pooled_shallow, "deep": video.pooled_deep}
    return Frames(tokens, keep, position, kind), trace


def tower_anchors(video: VideoTokens, config: AOTConfig) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Local and global masks (T, N) on the tower grid and the anchors per frame, the same for all frames.

    ⌊int(K·(1 - g)) / 9⌋ per window and K - int(K·(1 - g)) over the frame, so that K = 196 gives 90 + 98.
    """
    frames, tokens = video.features.shape[:2]
    windows = window_ids(video.grid, video.features.device)
    local_each = int(config.num_anchors * (1 - config.global_ratio))
    local = window_sizes(windows).clamp_max(local_each // 9).expand(frames, -1)
    global_ = torch.full((frames,), config.num_anchors - local_each, device=windows.device)
    chosen = choose(local, global_, video.shallow_importance, video.deep_importance, windows)
    per_window = local_each // 9
    count = sum(min(per_window, size) for size in grid_window_sizes(video.grid))
    count += config.num_anchors - local_each
    if count > tokens:
        raise AOTError(f"num_anchors {config.num_anchors} does not fit {tokens} tokens per frame; lower it.")
    if count == 0:
        raise AOTError(f"num_anchors {config.num_anchors} leaves no anchor for any of the 9 windows; raise it.")
    return *chosen, count


def with_newline_column(pooled: Frames, video: VideoTokens) -> Frames:
    """Every row of every frame gets a newline behind it that is kept and takes part in what follows."""
    height, width = video.pooled_grid
    frames, _, dim = pooled.tokens.shape

    def widen(values: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        rows = values.unflatten(1, (height, width))
        return torch.cat([rows, column.to(rows).expand(frames, height, 1, *rows.shape[3:])], dim=2).flatten(1, 2)

    place = torch.arange(height * (width + 1), device=pooled.keep.device)
    return Frames(
        tokens=widen(pooled.tokens, video.newline.to(pooled.tokens.device)),
        keep=widen(pooled.keep, torch.ones((), device=place.device)),
        position=torch.stack([place // (width + 1), place % (width + 1)], dim=-1),
        kind=widen(pooled.kind, torch.full((), int(Kind.NEWLINE), device=place.device)),
    )


def emit(pooled: Frames, video: VideoTokens, clips: list[int], config: AOTConfig) -> Selection:
    """Inter-frame transport and the emission order of each clip.

    "twice": frame 0's anchors as they were, dynamic tokens of later frames, updated anchors (not again in a
    clip of one frame). "once": updated anchors, then dynamic tokens.
    """
    device = pooled.keep.device
    counts = pooled.keep.sum(1)
    most = int(counts.max())
    if most == 0:
        raise AOTError(f"No token survives the pooling with num_anchors={config.num_anchors}; raise it.")
    slots = torch.arange(most, device=device)
    place = true_indices(pooled.keep, most)  # (T, K); beyond a frame's count arbitrary
    visual = pooled.keep & (pooled.kind != Kind.NEWLINE)
    mass = visual * (video.tokens_per_frame / visual.sum(1, keepdim=True).clamp_min(1))

    lengths = torch.tensor(clips, device=device)
    step = torch.arange(max(clips), device=device)
    frame = (lengths.cumsum(0) - lengths).unsqueeze(1) + torch.minimum(step, lengths.unsqueeze(1) - 1)  # (C, L)
    present = (slots < counts[frame].unsqueeze(-1)) & (step < lengths.unsqueeze(1)).unsqueeze(-1)
    place = place[frame]
    tokens = pooled.tokens[frame.unsqueeze(-1), place]
    chain = merge_clips(tokens, present, mass[frame.unsqueeze(-1), place].float(), config)

    twice = config.emission == "twice"
    updated = present[:, 0] & (lengths > 1).unsqueeze(1) if twice else present[:, 0]
    first = present[:, 0] if twice else torch.zeros_like(present[:, 0])
    # (C, L+1, K): updated anchors last ("twice") or first ("once"), frame 0's originals only in "twice"
    emitted = [torch.cat([first.unsqueeze(1), chain.dynamic[:, 1:]], dim=1), updated.unsqueeze(1)]
    carried = chain.mass.unsqueeze(1)
    own = mass[frame.unsqueeze(-1), place].float()
    own[:, 0] = own[:, 0] * ~updated  # a copy that is emitted again stands for nothing of its own
    source = frame.unsqueeze(-1).expand_as(place)
    kinds = pooled.kind[source, place]
    later = kinds[:, 1:]
    kinds = torch.cat([kinds[:, :1], torch.where(later == Kind.NEWLINE, later, int(Kind.DYNAMIC))], dim=1)

    def arrange(body: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
        return torch.cat([body, copies] if twice else [copies, body], dim=1).flatten(0, 2)

    flags = arrange(*emitted)
    total = int(flags.sum())
    index = true_indices(flags, total)
    last = frame[:, -1:, None].expand_as(source[:, :1])
    trace = {}
    if video.trace:
        trace = {"inter_plans": chain.plans, "inter_frame": frame, "inter_position": pooled.position[place]}
        trace |= {"inter_present": present, "inter_dynamic": chain.dynamic}
    return Selection(
        tokens=arrange(tokens, chain.anchors.unsqueeze(1))[index],
        frame=arrange(source, source[:, :1])[index],
        position=pooled.position[arrange(place, place[:, :1])[index]],
        kind=arrange(kinds, kinds[:, :1])[index],
        mass=arrange(own, carried)[index],
        newline_frame=arrange(source, last if twice else source[:, :1])[index],
        trace=trace,
    )
