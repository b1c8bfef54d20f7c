"""Where the tokens that were not kept went, read from the trace of a compression."""

import torch

from ..types import CompressedVideo


def find_flow(video: CompressedVideo) -> torch.Tensor | None:
    """(T·P,) int64 flat pooled index t·P + row·W + column of the kept token that took most of each token.

    -1 for kept tokens and for those that nothing took. None when the method drops tokens or left no trace of where they
    go. Understood are the plans of both variants of "aot", and the key "merged_into", a target as here, by which any
    other method may tell.
    """
    trace = video.trace or {}
    if "merged_into" in trace:
        return trace["merged_into"].cpu()
    if "supplier" in trace:  # a plan (C, M, K) a clip, between suppliers (C, M) and anchors (C, K), flat indices
        best = trace["plan"].argmax(dim=-1)  # (C, M)
        supplied = trace["plan"].sum(dim=-1) > 0
        target = torch.full((video.tokens_before,), -1, dtype=torch.int64, device=best.device)
        target[trace["supplier"][supplied]] = trace["anchor"].gather(1, best)[supplied]
        return target.cpu()
    if "intra_plan" in trace:
        return _frame_flow(video, trace).cpu()
    return None


def _frame_flow(video: CompressedVideo, trace: dict) -> torch.Tensor:
    """From the plans inside frames, on the tower grid, followed along the plans between frames."""
    height, width = video.grid
    per_frame = height * width
    step = torch.arange(video.tokens_before, device=trace["intra_plan"].device)
    kept = trace["pooled_mask"].flatten()
    inside = torch.where(kept, step, _inside_frames(trace, per_frame, height, width).flatten())
    between = _between_frames(trace, per_frame, width, step)
    target = torch.where(inside >= 0, between[inside.clamp_min(0)], -1)
    return torch.where(target == step, -1, target)


def _inside_frames(trace: dict, per_frame: int, height: int, width: int) -> torch.Tensor:
    """(T, P) flat index of the kept token of its frame that takes most of each pooled cell, -1 for none."""
    mask, plan, anchor = trace["anchor_mask"], trace["intra_plan"], trace["anchor"]
    frames = len(plan)
    # (N,) the pooled cell that each token of the tower grid lies in
    rows, columns = (
        torch.arange(n, device=plan.device) * m // n for n, m in zip(trace["tower_grid"], (height, width), strict=True)
    )
    cell = (rows[:, None] * width + columns).flatten()
    # (T, P, K) mass from a pooled cell to each anchor, then (T, P, P) to the anchors' cells that were kept
    mass = torch.zeros(frames, per_frame, plan.shape[2], device=plan.device).index_add_(1, cell, plan)
    to_cell = torch.zeros(frames, per_frame, per_frame, device=plan.device)
    to_cell.scatter_add_(2, cell[anchor].unsqueeze(1).expand_as(mass), mass)
    to_cell *= trace["pooled_mask"].unsqueeze(1)
    best = to_cell.max(dim=2)
    start = torch.arange(frames, device=mask.device).unsqueeze(1) * per_frame
    return torch.where(best.values > 0, start + best.indices, -1)


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
