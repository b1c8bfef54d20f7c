"""Inter-frame transport along clips (section 3.3): later frames merge into the first one's anchors.

All clips go at once; the loop runs over the position inside a clip. Frames keep different numbers of
tokens, so everything is padded: C clips, L frames in the longest, K tokens in the fullest frame.
"""

import math
from dataclasses import dataclass

import torch

from .config import AOTConfig
from .ops import sinkhorn, use_triton
from .scores import unit
from .transport import merge

_STOP = {"problem": "marginal", "batch": "change", "never": "never"}


@dataclass(frozen=True)
class Chain:
    """anchors: (C, K, D) float32 updated. mass: (C, K). dynamic: (C, L, K) bool, tokens that stay apart.
    plans: one (C, K, K) plan for each position 1 .. L-1, from the frame's tokens to the anchors.
    """

    anchors: torch.Tensor
    mass: torch.Tensor
    dynamic: torch.Tensor
    plans: list[torch.Tensor]


def merge_clips(tokens: torch.Tensor, present: torch.Tensor, mass: torch.Tensor, config: AOTConfig) -> Chain:
    """Runs frames 1, 2, … of every clip into the anchors, the tokens of its frame 0.

    tokens: (C, L, K, D) float32. present: (C, L, K) bool, False for padding. mass: (C, L, K).
    A token that finds no anchor (frame 0 kept none) stays apart as dynamic. On a GPU one kernel walks all clips.
    """
    if use_triton(config.backend, "chain", tokens, limit=_kernel_limit(tokens.shape[2])):
        return _merge_clips_by_kernel(tokens, present, mass, config)
    anchors, anchor_mass, here = tokens[:, 0], mass[:, 0], present[:, 0]
    dynamic = torch.zeros_like(present)
    plans = []
    for step in range(1, tokens.shape[1]):
        frame, real = tokens[:, step], present[:, step]
        plan = frame_plan(frame, real, anchors, here, step, config)
        total = plan.sum(dim=2, keepdim=True)
        share = plan / torch.where(total > 0, total, 1.0)
        certainty = share.amax(dim=2)
        if config.dynamic_rule == "quantile":
            threshold = masked_quantile(certainty, real, config.keep_ratio)
            apart = real & (certainty.double() < threshold)
        else:
            apart = real & (certainty < config.dynamic_threshold)
        apart |= real & ~here.any(dim=1, keepdim=True)
        share = share * (real & ~apart).unsqueeze(-1)
        carried = torch.bmm(share.transpose(1, 2), frame)
        anchors = merge(anchors, carried, share.sum(1), strength=config.inter_scale, cap=config.merge_cap)
        anchor_mass = anchor_mass + (share * mass[:, step].unsqueeze(-1)).sum(1)
        dynamic[:, step] = apart
        plans.append(plan)
    return Chain(anchors, anchor_mass, dynamic, plans)


def _kernel_limit(count: int) -> str | None:
    return f"a frame keeps {count} tokens, more than 128" if count > 128 else None


def _merge_clips_by_kernel(tokens: torch.Tensor, present: torch.Tensor, mass: torch.Tensor, config: AOTConfig) -> Chain:
    from .ops.kernels.chain import chain

    return Chain(
        *chain(
            tokens,
            present,
            mass,
            epsilon=config.epsilon,
            iterations=config.iterations,
            stop=_STOP[config.stop],
            tolerance=config.tolerance,
            sigma=config.temporal_sigma,
            keep_ratio=config.keep_ratio if config.dynamic_rule == "quantile" else None,
            threshold=config.dynamic_threshold,
            strength=config.inter_scale,
            cap=config.merge_cap,
        )
    )


def frame_plan(
    frame: torch.Tensor,
    real: torch.Tensor,
    anchors: torch.Tensor,
    here: torch.Tensor,
    step: int,
    config: AOTConfig,
) -> torch.Tensor:
    """Plan (C, K, K) from a frame's tokens to the anchors, uniform marginals of total mass 1 per clip.

    The cosine cost is shifted so that its least over the pair is 0, and weighted by
    1 - exp(-step² / (2σ²)): frames far from the first pay the full cost.
    """
    cost = 1 - torch.bmm(unit(frame), unit(anchors).transpose(1, 2))
    pairs = real.unsqueeze(-1) & here.unsqueeze(1)
    least = cost.masked_fill(~pairs, torch.inf).amin(dim=(1, 2), keepdim=True)
    cost = torch.where(pairs, cost - least, 0.0) * (1 - math.exp(-(step**2) / (2 * config.temporal_sigma**2)))
    both = pairs.flatten(1).any(dim=1, keepdim=True)
    return sinkhorn(
        cost,
        both * real / real.sum(1, keepdim=True).clamp_min(1),
        both * here / here.sum(1, keepdim=True).clamp_min(1),
        epsilon=config.epsilon,
        iterations=config.iterations,
        stop=_STOP[config.stop],
        tolerance=config.tolerance,
        backend=config.backend,
    )


def masked_quantile(values: torch.Tensor, valid: torch.Tensor, ratio: float) -> torch.Tensor:
    """(C, 1) float64 quantile of each row's valid entries, linear interpolation; +inf sorts padding last.

    float64, because in float32 the interpolation moves exact ties to the other side.
    """
    ordered = values.double().masked_fill(~valid, torch.inf).sort(dim=1).values
    place = ratio * (valid.sum(1, keepdim=True) - 1).clamp_min(0).double()
    low, high = ordered.gather(1, place.floor().long()), ordered.gather(1, place.ceil().long())
    return torch.where(high > low, low + (high - low) * (place - place.floor()), low)
