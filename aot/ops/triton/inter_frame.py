"""Inter-frame transport along clips: one program walks a clip, so that all clips go at once in one launch."""

import torch
import triton
import triton.language as tl

from .sinkhorn import STOP_RULES
from .tiles import LOG2E, inverse_root


@triton.jit
def pair_cosine(x, y, slots, count, dim, KP: tl.constexpr, BD: tl.constexpr):
    """(KP, KP) cosines of the rows of x and y, (count, dim) each; 0 where a row is zero."""
    product = tl.zeros([KP, KP], tl.float32)
    x_square = tl.zeros([KP], tl.float32)
    y_square = tl.zeros([KP], tl.float32)
    for start in range(0, dim, BD):
        d = start + tl.arange(0, BD)
        mask = (slots < count)[:, None] & (d < dim)[None, :]
        a = tl.load(x + slots[:, None] * dim + d[None, :], mask=mask, other=0.0)
        b = tl.load(y + slots[:, None] * dim + d[None, :], mask=mask, other=0.0)
        product = tl.dot(a, tl.trans(b), product, input_precision="tf32x3")
        x_square += tl.sum(a * a, 1)
        y_square += tl.sum(b * b, 1)
    return product * inverse_root(x_square)[:, None] * inverse_root(y_square)[None, :]


@triton.jit
def small_plan(cost, a, b, inside, rate, iterations, tolerance, STOP: tl.constexpr):
    """Sinkhorn-Knopp on a (KP, KP) cost held in registers; a, b: marginals (KP,)."""
    if STOP < 2:
        # a 1 in every row and column keeps the scalings far from the limits of float32
        least = tl.min(tl.where(inside, cost, float("inf")), 1)
        cost -= tl.where(least < float("inf"), least, 0.0)[:, None]
        least = tl.min(tl.where(inside, cost, float("inf")), 0)
        cost -= tl.where(least < float("inf"), least, 0.0)[None, :]
    gibbs = tl.where(inside, tl.exp2(-cost * rate), 0.0)
    row = (a > 0).to(tl.float32)
    column = (b > 0).to(tl.float32)
    step = 0
    while step < iterations:
        through = tl.sum(gibbs * column[None, :], 1)
        solved = False
        if STOP == 1:
            error = tl.where(a > 0, tl.abs(row * through - a) / tl.where(a > 0, a, 1.0), 0.0)
            solved = tl.max(error, 0) < tolerance
        if not solved:
            live = (a > 0) & (through > 0)
            new_row = tl.where(live, a / tl.where(live, through, 1.0), 0.0)
            reached = tl.sum(gibbs * new_row[:, None], 0)
            live = (b > 0) & (reached > 0)
            column = tl.where(live, b / tl.where(live, reached, 1.0), 0.0)
            if STOP == 2:
                moved = tl.sum(tl.abs(new_row - row), 0)
                solved = moved < tolerance * tl.sum((a > 0).to(tl.float32), 0)
            row = new_row
        step = tl.where(solved, iterations, step + 1)
    return row[:, None] * gibbs * column[None, :]


@triton.jit
def quantile(values, valid, slots, place):
    """float64 value at `place` (float64) among the sorted valid entries, linear between neighbours."""
    ordered = tl.where(valid, values, float("inf"))
    tie = (ordered[None, :] == ordered[:, None]) & (slots[None, :] < slots[:, None])
    rank = tl.sum(((ordered[None, :] < ordered[:, None]) | tie).to(tl.int32), 1)
    below = tl.floor(place)
    low = tl.sum(tl.where(rank == below.to(tl.int32), ordered, 0.0), 0).to(tl.float64)
    high = tl.sum(tl.where(rank == tl.ceil(place).to(tl.int32), ordered, 0.0), 0).to(tl.float64)
    return tl.where(high > low, low + (high - low) * (place - below), low)


@triton.jit(do_not_specialize=["clips", "length", "count", "iterations"])
def inter_frame_kernel(
    tokens, present, mass, place, anchors, anchor_mass, dynamic, plans, clips, length, count, dim,
    rate, iterations, tolerance, inverse_spread, threshold, strength, cap,
    STOP: tl.constexpr, QUANTILE: tl.constexpr, KP: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Walks frames 1, 2, … of one clip into its anchors (C, K, D), which start as frame 0's tokens."""
    clip = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, KP)
    fits = slots < count
    inside = fits[:, None] & fits[None, :]
    y = anchors + clip * count * dim
    here = tl.load(present + clip * length * count + slots, mask=fits, other=0) > 0
    own = tl.load(mass + clip * length * count + slots, mask=fits, other=0.0)
    some = tl.sum(here.to(tl.float32), 0)
    for step in range(1, length):
        frame = clip * length + step
        x = tokens + frame * count * dim
        real = tl.load(present + frame * count + slots, mask=fits, other=0) > 0
        many = tl.sum(real.to(tl.float32), 0)
        pairs = real[:, None] & here[None, :]
        cost = 1 - pair_cosine(x, y, slots, count, dim, KP, BD)
        least = tl.min(tl.min(tl.where(pairs, cost, float("inf")), 1), 0)
        late = 1 - tl.exp(-inverse_spread * step * step)
        cost = tl.where(pairs, cost - least, 0.0) * late
        both = tl.minimum(some, 1.0) * tl.minimum(many, 1.0)  # 0 when one side keeps nothing
        a = tl.where(real, both / tl.maximum(many, 1.0), 0.0)
        b = tl.where(here, both / tl.maximum(some, 1.0), 0.0)
        plan = small_plan(cost, a, b, inside, rate, iterations, tolerance, STOP)
        table = plans + ((step - 1) * clips + clip) * count * count
        tl.store(table + slots[:, None] * count + slots[None, :], plan, mask=inside)
        total = tl.sum(plan, 1)
        share = plan / tl.where(total > 0, total, 1.0)[:, None]
        certainty = tl.max(share, 1)
        if QUANTILE:
            limit = quantile(certainty, real, slots, tl.load(place + frame))
        else:
            limit = tl.full([], threshold, tl.float64)
        # without anchors nothing can be merged
        apart = real & (certainty.to(tl.float64) < tl.where(some > 0, limit, float("inf")))
        tl.store(dynamic + frame * count + slots, apart.to(tl.int8), mask=fits)
        share = tl.where(real[:, None] & (apart[:, None] == 0), share, 0.0)
        weight = tl.load(mass + frame * count + slots, mask=fits, other=0.0)
        own += tl.sum(share * weight[:, None], 0)
        received = tl.sum(share, 0)
        taken = tl.minimum(strength * received / (1 + strength * received), cap)
        scale = tl.where(received > 0, 1 / tl.where(received > 0, received, 1.0), 0.0)
        turned = tl.trans(share)
        tl.debug_barrier()
        for start in range(0, dim, BD):
            d = start + tl.arange(0, BD)
            mask = fits[:, None] & (d < dim)[None, :]
            later = tl.load(x + slots[:, None] * dim + d[None, :], mask=mask, other=0.0)
            mean = tl.dot(turned, later, input_precision="tf32x3") * scale[:, None]
            old = tl.load(y + slots[:, None] * dim + d[None, :], mask=mask, other=0.0)
            tl.store(y + slots[:, None] * dim + d[None, :], old + taken[:, None] * (mean - old), mask=mask)
        tl.debug_barrier()
    tl.store(anchor_mass + clip * count + slots, own, mask=fits)


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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """(anchors, mass, dynamic, plans); arguments as in `aot.ops.merge_clips`."""
    clips, length, count, dim = tokens.shape
    tokens, present, mass = tokens.contiguous(), present.contiguous(), mass.float().contiguous()
    anchors = tokens[:, 0].clone()
    anchor_mass = torch.empty(clips, count, dtype=torch.float32, device=tokens.device)
    dynamic = torch.zeros(clips, length, count, dtype=torch.int8, device=tokens.device)
    plans = torch.empty(max(length - 1, 0), clips, count, count, dtype=torch.float32, device=tokens.device)
    # float64 and made here: a ratio handed over as float32 would move exact ties to the other side
    place = (keep_ratio or 0.0) * (present.sum(2) - 1).clamp_min(0).double()
    padded = max(16, triton.next_power_of_2(count))
    inter_frame_kernel[(clips,)](
        tokens, present.to(torch.int8), mass, place, anchors, anchor_mass, dynamic, plans,
        clips, length, count, dim, LOG2E / epsilon, iterations, tolerance,
        1 / (2 * temporal_sigma**2), threshold, strength, cap,
        STOP=STOP_RULES[stop], QUANTILE=keep_ratio is not None, KP=padded, BD=32,
        num_warps=4 if padded <= 32 else 8,
        num_stages=1 if padded > 64 else 3,  # what compute capability 8.0 has of shared memory
    )  # fmt: skip
    return anchors, anchor_mass, dynamic.bool(), list(plans.unbind(0))
