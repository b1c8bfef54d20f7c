"""Inter-frame transport along clips (section 3.3 of the paper): later frames merge into the first one's anchors.

All clips go at once; the loop runs over the position inside a clip. Frames keep different numbers of
tokens, so everything is padded: C clips, L frames in the longest, K tokens in the fullest frame.
"""

import math
from dataclasses import dataclass

import torch

from .aggregate import merge
from .common import unit, use_triton
from .sinkhorn import FLOAT32_EXPONENT, sinkhorn


@dataclass(frozen=True)
class MergedClips:
    """anchors: (C, K, D) float32 updated. mass: (C, K). dynamic: (C, L, K) bool, tokens that stay apart.
    plans: one (C, K, K) plan for each position 1 .. L-1, from the frame's tokens to the anchors.
    """

    anchors: torch.Tensor
    mass: torch.Tensor
    dynamic: torch.Tensor
    plans: list[torch.Tensor]


def merge_clips(
    tokens: torch.Tensor,
    present: torch.Tensor,
    mass: torch.Tensor,
    *,
    epsilon: float,
    iterations: int,
    stop: str,
    tolerance: float,
    temporal_sigma: float,
    keep_ratio: float | None,
    threshold: float,
    strength: float,
    cap: float,
    backend: str = "auto",
) -> MergedClips:
    """Runs frames 1, 2, … of every clip into the anchors, the tokens of its frame 0.

    tokens: (C, L, K, D) float32. present: (C, L, K) bool, False for padding. mass: (C, L, K).
    A token stays apart (dynamic) where its largest share p_ij is below the keep_ratio quantile of its frame or, with
    keep_ratio None, below threshold, and where it finds no anchor (frame 0 kept none). temporal_sigma: frames.
    strength, cap: as in `merge`. Other settings as in `sinkhorn`. On a GPU one kernel walks all clips, of up to 128
    tokens a frame.
    """
    rules = {"epsilon": epsilon, "iterations": iterations, "stop": stop, "tolerance": tolerance}
    count = tokens.shape[2]
    limit = f"a frame keeps {count} tokens, more than 128" if count > 128 else None
    if use_triton(backend, "merge_clips", tokens, limit=limit):
        from .triton.inter_frame import merge_clips as kernel

        others = {"temporal_sigma": temporal_sigma, "keep_ratio": keep_ratio, "threshold": threshold}
        return MergedClips(*kernel(tokens, present, mass, strength=strength, cap=cap, **others, **rules))
    anchors, anchor_mass, anchor_present = tokens[:, 0], mass[:, 0], present[:, 0]
    dynamic = torch.zeros_like(present)
    plans = []
    for step in range(1, tokens.shape[1]):
        frame, valid = tokens[:, step], present[:, step]
        # transport, at a cost that grows with the frames in between
        lateness = 1 - math.exp(-(step**2) / (2 * temporal_sigma**2))
        plan = _frame_plan(frame, valid, anchors, anchor_present, lateness, backend=backend, **rules)
        total = plan.sum(dim=2, keepdim=True)
        share = plan / torch.where(total > 0, total, 1.0)
        # tokens without a clear anchor stay apart
        certainty = share.amax(dim=2)
        if keep_ratio is None:
            apart = valid & (certainty < threshold)
        else:
            apart = valid & (certainty.double() < masked_quantile(certainty, valid, keep_ratio))
        apart |= valid & ~anchor_present.any(dim=1, keepdim=True)
        # the others merge
        share = (share * (valid & ~apart).unsqueeze(-1)).to(frame.dtype)
        carried = torch.bmm(share.transpose(1, 2), frame)
        anchors = merge(anchors, carried, share.sum(1), strength=strength, cap=cap)
        anchor_mass = anchor_mass + (share * mass[:, step].unsqueeze(-1)).sum(1).float()
        dynamic[:, step] = apart
        plans.append(plan)
    return MergedClips(anchors, anchor_mass, dynamic, plans)


@torch.no_grad()
def _frame_plan(
    frame: torch.Tensor,
    valid: torch.Tensor,
    anchors: torch.Tensor,
    anchor_present: torch.Tensor,
    lateness: float,
    **settings,
) -> torch.Tensor:
    """Plan (C, K, K) from a frame's tokens to the anchors, uniform marginals of total mass 1 per clip.

    The cosine cost is shifted so that its least over the pair is 0, and multiplied by `lateness`: frames far from the
    first pay the full cost.
    """
    cost = 1 - torch.bmm(unit(frame), unit(anchors).transpose(1, 2))
    pairs = valid.unsqueeze(-1) & anchor_present.unsqueeze(1)
    least = cost.masked_fill(~pairs, torch.inf).amin(dim=(1, 2), keepdim=True)
    cost = torch.where(pairs, cost - least, 0.0) * lateness
    both = pairs.flatten(1).any(dim=1, keepdim=True)
    return sinkhorn(
        cost,
        (both * valid).float() / valid.sum(1, keepdim=True).clamp_min(1),
        (both * anchor_present).float() / anchor_present.sum(1, keepdim=True).clamp_min(1),
        log_domain=2 / settings["epsilon"] > FLOAT32_EXPONENT,
        **settings,
    )


def masked_quantile(values: torch.Tensor, valid: torch.Tensor, ratio: float) -> torch.Tensor:
    """(C, 1) float64 quantile of each row's valid entries, linear interpolation; +inf sorts padding last.

    float64, because in float32 the interpolation moves exact ties to the other side.
    """
    ordered = values.double().masked_fill(~valid, torch.inf).sort(dim=1).values
    place = ratio * (valid.sum(1, keepdim=True) - 1).clamp_min(0).double()
    low, high = ordered.gather(1, place.floor().long()), ordered.gather(1, place.ceil().long())
    return torch.where(high > low, low + (high - low) * (place - place.floor()), low)
