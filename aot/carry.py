"""Space-time transport of a clip's other tokens onto its kept ones, all clips at once (default schedule)."""

from dataclasses import dataclass

import torch

from .anchors import true_indices
from .config import AOTConfig
from .ops import aggregate, pair_cost, sinkhorn
from .temporal import clip_starts
from .transport import merge, soft_nearest
from .video import VideoTokens

FLOAT32_EXPONENT = 80  # exp(-80) is about the least that float32 still tells from 0
_STOP = {"problem": "marginal", "never": "never"}


@dataclass(frozen=True)
class Clips:
    """A video of T·P tokens in C clips, padded to the n = longest·P tokens of the longest.

    starts: (C,) first frame of each clip. token: (C, n) flat token indices. real: (C, n) bool, False for padding.
    slot: (T·P,) where each token lies in the flattened (C, n). counts: tokens that each clip keeps, at least 1.
    """

    starts: torch.Tensor
    token: torch.Tensor
    real: torch.Tensor
    slot: torch.Tensor
    counts: list[int]
    longest: int

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Values (T, P) by clip, (C, n), 0 where there is padding."""
        return values.flatten()[self.token] * self.real

    def flat(self, values: torch.Tensor) -> torch.Tensor:
        """Values (C, n) by token, (T·P,)."""
        return values.flatten()[self.slot]


def group_clips(lengths: list[int], counts: list[int], per_frame: int, device: torch.device) -> Clips:
    """The clips of a video. lengths: frames of each. counts: tokens that each keeps."""
    tokens, longest = sum(lengths) * per_frame, max(lengths)
    first = clip_starts(lengths, device)
    starts = first.unsqueeze(1) * per_frame
    place = torch.arange(longest * per_frame, device=device)
    ends = torch.cat([starts[1:], starts.new_full((1, 1), tokens)])
    each = torch.arange(tokens, device=device)
    clip = torch.searchsorted(first, each // per_frame, right=True) - 1
    return Clips(
        starts=first,
        token=(starts + place).clamp_max(tokens - 1),
        real=starts + place < ends,
        slot=clip * len(place) + each - starts[clip, 0],
        counts=counts,
        longest=longest,
    )


def clip_cost(video: VideoTokens, clips: Clips, config: AOTConfig) -> torch.Tensor:
    """(C, n, n) float32 cost between all tokens of a clip.

    (1 - cos) + spatial_weight·distance, the sides of a frame being 1, + temporal_weight·frames apart: a token of
    another time says what there is and leaves open whether it still is.
    """
    cost = pair_cost(
        video.pooled,
        clips.starts,
        clips.longest,
        clips.token,
        grid=video.pooled_grid,
        spatial_weight=config.spatial_weight,
        backend=config.backend,
    )
    if config.temporal_weight > 0:
        frame = torch.arange(cost.shape[1], device=cost.device) // video.tokens_per_frame
        cost += config.temporal_weight * (frame.unsqueeze(1) - frame).abs()
    return cost


def highest_cost(clips: Clips, config: AOTConfig) -> float:
    """Bound of the costs between two tokens of a clip."""
    return 2 + 2**0.5 * config.spatial_weight + (clips.longest - 1) * config.temporal_weight


def transport_clips(
    video: VideoTokens, cost: torch.Tensor, index: torch.Tensor, clips: Clips, config: AOTConfig
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Carries every token that is not kept to the kept ones of its clip.

    cost: (C, n, n) of all pairs of a clip. index: (S,) kept flat indices, ascending, as many per clip as its count.
    Returns tokens (S, D) in the input's dtype, masses (S,) float32 that sum to T·P, and a trace.
    """
    count = torch.tensor(clips.counts, device=index.device).unsqueeze(1)
    slot = torch.arange(max(clips.counts), device=index.device)
    filled = slot < count
    anchor = index[(count.cumsum(0) - count + slot).clamp_max(index.shape[0] - 1)]  # (C, K)
    anchor = torch.where(filled, anchor, clips.token[:, :1])
    within = anchor - clips.token[:, :1]
    cost = cost.gather(2, within.unsqueeze(1).expand(-1, cost.shape[1], -1))
    kept = torch.zeros(clips.slot.shape, dtype=torch.bool, device=index.device).index_fill(0, index, True)
    supply = (clips.real & ~kept[clips.token]).float()
    plan = clip_plan(cost, supply, filled, config, highest=highest_cost(clips, config))
    slots = true_indices(filled.flatten(), index.shape[0])
    received = plan.sum(dim=1).flatten()[slots]
    tokens = video.pooled.flatten(0, 1)[index]
    if config.merge_strength > 0 and config.merge_cap > 0:
        carried = aggregate(plan, video.pooled, clips.starts, clips.longest, backend=config.backend)
        carried = carried.flatten(0, 1)[slots]
        merged = merge(tokens.float(), carried, received, strength=config.merge_strength, cap=config.merge_cap)
        tokens = merged.to(tokens.dtype)
    trace = {"plan": plan, "cost": cost, "anchor": anchor, "supplier": clips.token}
    return tokens, 1 + received, trace if video.trace else {}


def clip_plan(
    cost: torch.Tensor, supply: torch.Tensor, filled: torch.Tensor, config: AOTConfig, *, highest: float
) -> torch.Tensor:
    """(C, n, K) plan in which every supplier carries its mass.

    cost: (C, n, K), at most `highest`. supply: (C, n). filled: (C, K) bool.

    Anchor marginals are uniform_share · M/K + (1 - uniform_share) · (what lies nearest to each anchor). At 0
    the plan has a closed form; else Sinkhorn finds it.
    """
    nearest = soft_nearest(cost, supply, filled, config.epsilon)
    if config.uniform_share == 0:
        return nearest
    each = supply.sum(1, keepdim=True) / filled.sum(1, keepdim=True)
    demand = torch.lerp(nearest.sum(dim=1), each * filled, config.uniform_share)
    return sinkhorn(
        cost,
        supply,
        demand,
        epsilon=config.epsilon,
        iterations=config.iterations,
        stop=_STOP[config.stop],
        tolerance=config.tolerance,
        log_domain=highest / config.epsilon > FLOAT32_EXPONENT,
        backend=config.backend,
    )
