"""OTT-Vid (Kang et al. 2026, arXiv 2605.11803): facility location in frames, optimal transport between neighbours.

1. Each frame keeps K = P·r^(1 - γ) tokens by greedy facility location: a token i of saliency w_i is explained by the
   kept token it is most like, max(0, cos). Saliency is the attention received in the last layer.
2. Neighbouring frames: cost α(1 - max(0, cos)) + (1 - α)‖Δp‖/√2 with α = 0.5 + 0.5·(1 - mean cosine at the same place);
   masses softmax(-s / 0.3), s_j what the frame's explanation loses without token j over the largest such loss of the
   frame; log-domain Sinkhorn, ε = 0.01, 200 iterations.
3. The merges that lead to the budget are shared between pairs by softmax(-total cost / 0.3). In a pair, the tokens of
   the later frame to which the plan moves most mass join the earlier token it comes from, one such for each. Chains of
   joined tokens become the mean at their first token. A token joined at a cost above 0.3 is dropped instead, with all
   that joined it.

Deviations: merges are shared by largest remainders, and what a pair cannot give (the published code re-runs
the softmax over the others) is given by the others evenly; every frame keeps a token unless the budget leaves no other
way; K is at least ⌈budget/T⌉ and at most the budget, so that the count is exact. Mass counts the tokens of step 1
that were joined: what step 1 leaves out is dropped.
"""

import math

import torch

from ..config import AOTConfig
from ..ops import facility_location, sinkhorn
from ..ops.common import rank_descending, relative_importance, true_indices, unit
from ..ops.pair_cost import grid_distances
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import number_in
from .common import chain_roots, gather_members, select_tokens

TEMPERATURE = 0.3  # of masses and of the share of merges
MAX_COST = 0.3
EPSILON = 0.01
ITERATIONS = 200


@register("ott_vid", options={"temporal_share": number_in(0.3, 0, 1)}, requires=("attention_last",))
def ott_vid(video: VideoTokens, config: AOTConfig) -> Selection:
    """Representative tokens of every frame, then the cheapest of them joined along time."""
    frames, per_frame = video.frames, video.tokens_per_frame
    budget = config.budget(frames, per_frame)
    count = spatial_count(config.retention, config.options["temporal_share"], budget, frames, per_frame)
    units = unit(video.pooled)
    weight = relative_importance(video.pooled_extra("attention_last"))
    place, gain = representatives(units, weight, count)
    index = place + per_frame * torch.arange(frames, device=place.device).unsqueeze(1)
    index = index.flatten()
    if budget == frames * count:
        return select_tokens(video, index)
    cost = frame_pair_cost(units, place, video.pooled_grid)
    mass = (relative_gain(gain) / -TEMPERATURE).softmax(dim=-1)
    plan = sinkhorn(
        cost,
        mass[:-1],
        mass[1:],
        epsilon=EPSILON,
        iterations=ITERATIONS,
        stop="never",
        log_domain=True,
        backend=config.backend,
    )
    joined, partner = choose_merges(plan, (plan * cost).sum(dim=(1, 2)), frames * count - budget)
    dear = cost.gather(1, partner.unsqueeze(1)).squeeze(1) > MAX_COST
    root = chain_roots(joined & ~dear, partner)
    dropped = torch.cat([torch.zeros_like(joined[:1]), joined & dear]).flatten()
    survivor = true_indices(~torch.cat([torch.zeros_like(joined[:1]), joined]).flatten(), budget)
    target = root.masked_fill(dropped[root], frames * count)
    flat = video.pooled.flatten(0, 1)
    sums, members = gather_members(flat.index_select(0, index), target, survivor)
    index = index[survivor]
    own = flat.index_select(0, index)
    tokens = torch.where(members.unsqueeze(-1) > 1, (sums / members.unsqueeze(-1)).to(own.dtype), own)
    kind = torch.where(members > 1, int(TokenKind.LOCAL), int(TokenKind.GLOBAL))
    trace = {"plan": plan, "cost": cost, "place": place, "gain": gain}
    return Selection.from_indices(tokens, index, video.pooled_grid, kind=kind, mass=members, trace=trace)


def spatial_count(retention: float, temporal_share: float, budget: int, frames: int, per_frame: int) -> int:
    """K, tokens of each frame after step 1: ⌊P·r^(1 - γ)⌋ within [⌈budget/T⌉, min(P, budget)]."""
    wanted = int(per_frame * retention ** (1 - temporal_share))
    return min(max(wanted, -(-budget // frames)), per_frame, budget)


def representatives(units: torch.Tensor, weight: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Step 1: places (T, K) int64 ascending, and the gain (T, K) that each adds to its frame's explanation.

    units: (T, P, D) of length 1. weight: (T, P) saliency, mean 1 in each frame.
    """
    cosine = torch.bmm(units, units.transpose(1, 2))
    frames, per_frame = weight.shape
    if count == per_frame:
        place = torch.arange(count, device=units.device).expand(frames, -1)
    else:
        # facility location of similarities max(0, cos): a token costs 1 before anything explains it
        free = torch.ones_like(weight, dtype=torch.bool)
        counts = torch.full((frames,), count, device=units.device)
        chosen = facility_location(1 - cosine, weight, None, free, counts, max_steps=count, max_cost=1.0)
        place = true_indices(chosen, count)
    best = cosine.gather(2, place.unsqueeze(1).expand(-1, per_frame, -1)).topk(min(2, count), dim=-1)
    ahead = (best.values[..., 0] - (best.values[..., 1] if count > 1 else 0)).clamp_min(0)
    gain = units.new_zeros(frames, count)
    return place, gain.scatter_add_(1, best.indices[..., 0], ahead * weight / per_frame)


def relative_gain(gain: torch.Tensor) -> torch.Tensor:
    """(T, K) in [0, 1], gains over the largest of their frame; 0 in a frame without any."""
    largest = gain.amax(dim=-1, keepdim=True)
    return gain / torch.where(largest > 0, largest, 1.0)


def frame_pair_cost(units: torch.Tensor, place: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(T - 1, K, K) cost between the kept tokens of frames t (rows) and t + 1 (columns).

    units: (T, P, D) of length 1. place: (T, K).
    """
    tokens = units.gather(1, place.unsqueeze(-1).expand(-1, -1, units.shape[-1]))
    unlike = 1 - torch.bmm(tokens[:-1], tokens[1:].transpose(1, 2)).clamp_min(0)
    apart = grid_distances(grid, units.device)[place[:-1].unsqueeze(2), place[1:].unsqueeze(1)] / math.sqrt(2)
    change = 1 - torch.linalg.vecdot(units[1:], units[:-1]).mean(dim=1)
    alpha = (0.5 + 0.5 * change.clamp(0, 1)).view(-1, 1, 1)
    return alpha * unlike + (1 - alpha) * apart


def choose_merges(plan: torch.Tensor, total: torch.Tensor, merges: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens of frames 1 to T - 1 join one of the frame before, (T - 1, K) bool, and which, (T - 1, K) int64.

    plan: (T - 1, K, K). total: (T - 1,) transport cost of each pair. merges: how many in all, at most (T - 1)·K.
    """
    strength, partner = plan.max(dim=1)
    rank = rank_descending(strength)
    quota = merges * (total.double() / -TEMPERATURE).softmax(dim=0)
    turn = quota.unsqueeze(1) - rank
    # the last token of a frame goes only when no other is left
    turn = turn.masked_fill(rank == plan.shape[-1] - 1, -torch.inf)
    chosen = turn.flatten().argsort(descending=True, stable=True)[:merges]
    joined = torch.zeros(turn.numel(), dtype=torch.bool, device=plan.device).index_fill_(0, chosen, True)
    return joined.view_as(partner), partner
