"""Entropic transport of a batch: one program per problem, which stops by itself when its marginals are met."""

import torch
import triton
import triton.language as tl

from .tiles import LOG2E

STOP_RULES = {"never": 0, "marginal": 1, "change": 2}


@triton.jit
def start_scalings(
    cost, supply, scaling, wanted, rows, columns, rate, cost_row,
    SHIFT: tl.constexpr, BM: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    """(g, suppliers): scalings of 1 on the cost whose rows and then columns are shifted to a minimum of 0."""
    column = tl.arange(0, KP)
    inside = column < columns
    least = tl.full([KP], float("inf"), tl.float32)
    count = tl.zeros([BM], tl.float32)
    for start in range(0, rows, BM):
        row = start + tl.arange(0, BM)
        valid = row < rows
        mass = tl.load(supply + row, mask=valid, other=0.0).to(tl.float32)
        first = tl.zeros([BM], tl.float32)
        if SHIFT:
            place = cost + row.to(tl.int64)[:, None] * cost_row + column[None, :]
            price = tl.load(place, mask=valid[:, None] & inside[None, :], other=float("inf")).to(tl.float32)
            first = tl.min(price, 1)
            first = tl.where(valid, first, 0.0)
            least = tl.minimum(least, tl.min(price - first[:, None], 0))
        count += (mass > 0).to(tl.float32)
        tl.store(scaling + row, tl.where(mass > 0, first * rate, -float("inf")), mask=valid)
    suppliers = tl.sum(count, 0)
    g = tl.zeros([KP], tl.float32)
    if SHIFT:
        g = tl.where(inside, least, 0.0) * rate
    return tl.where(wanted > 0, g, -float("inf")), suppliers


@triton.jit
def write_plan(cost, f, g, plan, rows, columns, rate, cost_row, BM: tl.constexpr, KP: tl.constexpr):
    """plan = 2^(f + g - rate·cost)."""
    column = tl.arange(0, KP)
    inside = column < columns
    for start in range(0, rows, BM):
        row = start + tl.arange(0, BM)
        both = (row < rows)[:, None] & inside[None, :]
        scale = tl.load(f + row, mask=row < rows, other=-float("inf"))
        price = tl.load(cost + row.to(tl.int64)[:, None] * cost_row + column[None, :], mask=both, other=0.0)
        value = tl.exp2(scale[:, None] + g[None, :] - price.to(tl.float32) * rate)
        tl.store(plan + row.to(tl.int64)[:, None] * columns + column[None, :], value, mask=both)


@triton.jit
def row_shares(cost, row, valid, g, columns, rate, cost_row, KP: tl.constexpr):
    """(BM, KP) terms 2^(g - rate·cost - top) of some rows, their largest exponents `top` and their sums."""
    column = tl.arange(0, KP)
    place = cost + row.to(tl.int64)[:, None] * cost_row + column[None, :]
    price = tl.load(place, mask=valid[:, None] & (column < columns)[None, :], other=0.0).to(tl.float32)
    term = g[None, :] - price * rate
    top = tl.max(term, 1)
    top = tl.where(top == -float("inf"), 0.0, top)
    share = tl.exp2(term - top[:, None])
    return share, top, tl.sum(share, 1)


# columns, and the strides that follow from them, are other ones at every retention
@triton.jit(do_not_specialize=["columns", "iterations", "cost_batch", "cost_row", "supply_batch", "demand_batch"])
def sinkhorn_kernel(
    cost, supply, demand, plan, scaling, rows, columns, rate, iterations, tolerance,
    cost_batch, cost_row, supply_batch, demand_batch,
    STOP: tl.constexpr, SHIFT: tl.constexpr, BM: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    """plan (B, M, K). Logarithms are base 2; rate = log2(e) / ε.

    f (rows) and g (columns) are the logarithms of the scalings, plan = 2^(f + g - rate·cost). One sweep over
    the rows gives the new f and, from the same exponentials, the column sums that the new g follows from.
    scaling (B, 2, M) holds f before and after a sweep, since the sweep that finds a problem solved is undone.
    """
    problem = tl.program_id(0).to(tl.int64)
    cost += problem * cost_batch
    supply += problem * supply_batch
    plan += problem * rows * columns
    scaling += problem * 2 * rows
    column = tl.arange(0, KP)
    inside = column < columns
    wanted = tl.load(demand + problem * demand_batch + column, mask=inside, other=0.0).to(tl.float32)

    g, suppliers = start_scalings(cost, supply, scaling, wanted, rows, columns, rate, cost_row, SHIFT, BM, KP)
    tl.debug_barrier()

    side = 0
    step = 0
    while step < iterations:
        reached = tl.zeros([KP], tl.float32)
        error = tl.zeros([BM], tl.float32)
        for start in range(0, rows, BM):
            row = start + tl.arange(0, BM)
            valid = row < rows
            mass = tl.load(supply + row, mask=valid, other=0.0).to(tl.float32)
            before = tl.load(scaling + side * rows + row, mask=valid, other=-float("inf"))
            share, top, through = row_shares(cost, row, valid, g, columns, rate, cost_row, KP)
            live = (mass > 0) & (through > 0)
            safe = tl.where(live, through, 1.0)
            weight = tl.where(live, mass, 1.0)
            after = tl.where(live, tl.log2(weight / safe) - top, -float("inf"))
            if STOP == 1:
                has = tl.exp2(before + top) * through
                error = tl.maximum(error, tl.where(mass > 0, tl.abs(has - mass) / tl.where(mass > 0, mass, 1.0), 0.0))
            if STOP == 2:
                error += tl.abs(tl.exp2(after) - tl.exp2(before))
            reached += tl.sum(share * tl.where(live, weight / safe, 0.0)[:, None], 0)
            tl.store(scaling + (1 - side) * rows + row, after, mask=valid)
        solved = False
        if STOP == 1:
            solved = tl.max(error, 0) < tolerance
        if not solved:
            # below the range of float32 a column comes back step by step
            lack = tl.where(wanted > 0, wanted, 1.0) / tl.maximum(reached, 1e-37)
            g = tl.where(wanted > 0, g + tl.log2(lack), -float("inf"))
            side = 1 - side
            if STOP == 2:
                solved = tl.sum(error, 0) < tolerance * suppliers
        step = tl.where(solved, iterations, step + 1)
        tl.debug_barrier()

    write_plan(cost, scaling + side * rows, g, plan, rows, columns, rate, cost_row, BM, KP)


def sinkhorn(
    cost: torch.Tensor,
    supply: torch.Tensor,
    demand: torch.Tensor,
    *,
    epsilon: float,
    iterations: int,
    stop: str,
    tolerance: float,
    log_domain: bool,
) -> torch.Tensor:
    """Plans (B, M, K) float32; arguments as in `aot.ops.sinkhorn`."""
    cost, supply, demand = (x if x.stride(-1) == 1 else x.contiguous() for x in (cost, supply, demand))
    batch, rows, columns = cost.shape
    plan = torch.empty(cost.shape, dtype=torch.float32, device=cost.device)
    scaling = torch.empty(batch, 2, rows, dtype=torch.float32, device=cost.device)
    padded = max(16, triton.next_power_of_2(columns))
    sinkhorn_kernel[(batch,)](
        cost, supply, demand, plan, scaling, rows, columns, LOG2E / epsilon, iterations, tolerance,
        *cost.stride()[:2], supply.stride(0), demand.stride(0),
        STOP=STOP_RULES[stop],
        SHIFT=not log_domain and not stop.startswith("change"),
        BM=max(4, 4096 // padded),
        KP=padded,
        num_warps=8,
    )  # fmt: skip
    return plan
