"""Where the tokens that were not kept went, read from the trace of a compression."""

from dataclasses import dataclass

import torch

from ..types import CompressedVideo


@dataclass(frozen=True)
class Flow:
    """The strongest connection of every token that was not kept.

    target: (T·P,) int64 flat pooled index t·P + row·W + column of the kept token that took most of it, -1 for
    kept tokens and for tokens that nothing took. blended: (T·P,) bool, it changed the kept token's features
    (False: it is counted in the mass only).
    """

    target: torch.Tensor
    blended: torch.Tensor


def find_flow(video: CompressedVideo) -> Flow | None:
    """The flow of a traced compression; None when the method drops tokens or left no trace of where they go.

    Understood are the plans of both variants of "aot", and the key "merged_into", (T·P,) int64 as
    `Flow.target`, by which any other method may tell.
    """
    trace = video.trace or {}
    if "merged_into" in trace:
        target = trace["merged_into"].cpu()
        return Flow(target, target >= 0)
    if "supplier" in trace:
        return _joint_flow(video, trace)
    if "intra_plan" in trace:
        return _cascade_flow(video, trace)
    return None


def _joint_flow(video: CompressedVideo, trace: dict) -> Flow:
    """From one plan (C, M, K) per clip between suppliers (C, M) and anchors (C, K), flat indices."""
    best = trace["plan"].argmax(dim=-1)  # (C, M)
    supplied = trace["plan"].sum(dim=-1) > 0
    source = trace["supplier"][supplied]
    target = torch.full((video.tokens_before,), -1, dtype=torch.int64, device=source.device)
    blended = torch.zeros_like(target, dtype=torch.bool)
    target[source] = trace["anchor"].gather(1, best)[supplied]
    merges = video.config.merge_strength > 0 and video.config.merge_cap > 0
    blended[source] = merges
    return Flow(target.cpu(), blended.cpu())


def _cascade_flow(video: CompressedVideo, trace: dict) -> Flow:
    """From the plans inside frames, on the tower grid, followed along the plans between frames."""
    height, width = video.grid
    per_frame = height * width
    device = trace["intra_plan"].device
    step = torch.arange(video.tokens_before, device=device)
    kept = trace["pooled_mask"].flatten()
    inside = torch.where(kept, step, _inside_frames(trace, per_frame, height, width).flatten())
    between = _between_frames(trace, per_frame, width, step)
    target = torch.where(inside >= 0, between[inside.clamp_min(0)], -1)
    target = torch.where(target == step, -1, target).cpu()
    return Flow(target, target >= 0)


def _inside_frames(trace: dict, per_frame: int, height: int, width: int) -> torch.Tensor:
    """(T, P) flat index of the kept token of its frame that takes most of each pooled cell, -1 for none."""
    mask, plan, anchor = trace["anchor_mask"], trace["intra_plan"], trace["anchor"]
    frames = len(plan)
    cell = _pooled_cells(trace["tower_grid"], height, width).to(plan.device)
    # (T, P, K) mass from a pooled cell to each anchor, then (T, P, P) to the anchors' cells that were kept
    mass = torch.zeros(frames, per_frame, plan.shape[2], device=plan.device).index_add_(1, cell, plan)
    to_cell = torch.zeros(frames, per_frame, per_frame, device=plan.device)
    to_cell.scatter_add_(2, cell[anchor].unsqueeze(1).expand_as(mass), mass)
    to_cell *= trace["pooled_mask"].unsqueeze(1)
    best = to_cell.max(dim=2)
    start = torch.arange(frames, device=mask.device).unsqueeze(1) * per_frame
    return torch.where(best.values > 0, start + best.indices, -1)


def _pooled_cells(grid: tuple[int, int], height: int, width: int) -> torch.Tensor:
    """(N,) pooled cell that each token of the tower grid lies in."""
    rows, columns = grid
    row = torch.arange(rows) * height // rows
    column = torch.arange(columns) * width // columns
    return (row[:, None] * width + column).flatten()


def _between_frames(trace: dict, per_frame: int, width: int, step: torch.Tensor) -> torch.Tensor:
    """(T·P,) where each kept token of a frame ends: in the first frame of its clip, or where it is."""
    final = step.clone()
    place, present = trace["inter_position"], trace["inter_present"]  # (C, L, K, 2) and (C, L, K)
    visual = present & (place[..., 1] < width)
    flat = trace["inter_frame"].unsqueeze(-1) * per_frame + place[..., 0] * width + place[..., 1]
    for position, plan in enumerate(trace["inter_plans"], start=1):
        plan = plan * visual[:, 0].unsqueeze(1)
        moved = visual[:, position] & ~trace["inter_dynamic"][:, position] & (plan.sum(-1) > 0)
        best = flat[:, 0].gather(1, plan.argmax(dim=-1))
        final[flat[:, position][moved]] = best[moved]
    return final
