"""Greedy facility location: one program walks the steps of a problem, so that no step waits for a launch.

Step: j* = argmax_j Σ_i w_i · max(0, best_cost_i - cost_ij), then best_cost_i = min(best_cost_i, cost_ij*).
"""

import torch
import triton
import triton.language as tl

TILE = 2**14  # costs that one look takes, 64 KB
MAX_CANDIDATES = 64  # of a look; more would spill registers


@triton.jit
def fill_up(tie_break, chosen, found, wanted, tokens, i):
    """What the steps left open goes to the largest weights."""
    while found < wanted:
        worth = tl.load(tie_break + i, mask=i < tokens, other=-float("inf"))
        top = tl.max(worth, 0)
        best = tl.min(tl.where(worth == top, i, tokens - 1), 0)
        tl.debug_barrier()
        if top > -float("inf"):
            tl.store(chosen + best, 1)
            tl.store(tie_break + best, -float("inf"))
        found += 1
        tl.debug_barrier()


@triton.jit(do_not_specialize=["max_steps"])
def facility_location_kernel(
    cost, weight, candidates, count, start_cost, tie_break, chosen, tokens, max_steps, stride,
    BLOCK_J: tl.constexpr, BLOCK_I: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """chosen (B, n). Rows and columns of cost (B, n, n) are the same, so that a candidate's costs are read in a row.

    candidates (B, n): may be chosen. start_cost (B, n): what a token costs before anything is chosen.
    tie_break (B, n): what a candidate is worth where nothing is to be gained, -inf when it may not be chosen.
    """
    problem = tl.program_id(0).to(tl.int64)
    cost += problem * tokens * tokens
    tie_break += problem * tokens
    chosen += problem * tokens
    wanted = tl.load(count + problem).to(tl.int32)
    i, j = tl.arange(0, BLOCK_I), tl.arange(0, BLOCK_J)
    inside = i < tokens
    w = tl.load(weight + problem * tokens + i, mask=inside, other=0.0)
    w = tl.where(w > 0, tl.minimum(w, 1e30), 0.0)  # NaN weighs nothing
    allowed = tl.load(candidates + problem * tokens + i, mask=inside, other=0) > 0
    scale = tl.maximum(tl.max(w, 0), 1.1754943508222875e-38)
    tl.store(tie_break + i, tl.where(allowed, w / scale * 1e-6, -float("inf")), mask=inside)
    tl.store(chosen + i, tl.zeros([BLOCK_I], tl.int8), mask=inside)
    best_cost = tl.load(start_cost + problem * tokens + i, mask=inside, other=0.0)  # with the tokens chosen so far
    tl.debug_barrier()

    found = 0
    step = 0
    last = tl.minimum(max_steps, wanted)
    while step < last:
        # the candidates of this step: step % stride, and every stride-th one after it
        top = -float("inf")
        best = 0
        for start in tl.range(step % stride, tokens, BLOCK_J * stride, num_stages=STAGES):
            candidate = start + j * stride
            real = candidate < tokens
            place = candidate.to(tl.int64)[:, None] * tokens + i[None, :]
            new_cost = tl.load(cost + place, mask=real[:, None] & inside[None, :], other=float("inf"))
            gain = tl.sum(tl.maximum(best_cost[None, :] - new_cost, 0.0) * w[None, :], 1)
            gain += tl.load(tie_break + candidate, mask=real, other=-float("inf"))
            gain = tl.where(gain == gain, gain, -float("inf"))  # NaN is passed over, the count stays exact
            most = tl.max(gain, 0)
            if most > top:  # of equal ones the first
                top = most
                best = tl.min(tl.where(gain == most, candidate, tokens), 0)
        tl.debug_barrier()  # what follows overwrites what others may still read
        if top > -float("inf"):
            new_cost = tl.load(cost + best.to(tl.int64) * tokens + i, mask=inside, other=float("inf"))
            best_cost = tl.minimum(best_cost, new_cost)
            tl.store(chosen + best, 1)
            tl.store(tie_break + best, -float("inf"))
            found += 1
        step += 1
        tl.debug_barrier()

    fill_up(tie_break, chosen, found, wanted, tokens, i)


def tiles(tokens: int, stride: int) -> dict[str, int]:
    """Constants of a launch: candidates and padded tokens of a look, stages of its pipeline, warps."""
    padded = max(16, triton.next_power_of_2(tokens))
    looked_at = min(MAX_CANDIDATES, triton.next_power_of_2(triton.cdiv(tokens, stride)), TILE // padded)
    # small problems are many at once, which hides the way to memory as well as fetching ahead does
    stages = 3 if padded > 512 else 1
    warps = min(8, max(1, looked_at * padded // 1024))
    return {"BLOCK_J": looked_at, "BLOCK_I": padded, "STAGES": stages, "num_warps": warps}


def facility_location(
    cost: torch.Tensor,
    weight: torch.Tensor,
    selected: torch.Tensor | None,
    candidates: torch.Tensor,
    count: torch.Tensor,
    *,
    max_steps: int,
    max_cost: float,
    stride: int,
) -> torch.Tensor:
    """(B, n) bool; arguments as in `aot.ops.facility_location`."""
    if selected is None:
        start_cost = torch.full(weight.shape, max_cost, device=cost.device)
    else:
        # over the whole device: a few rows of many, which one program would look for one after another
        start_cost = torch.where(selected.unsqueeze(2), cost, max_cost).amin(dim=1)
        candidates = candidates & ~selected
    cost, weight, candidates, count, start_cost = (
        x.contiguous() for x in (cost, weight, candidates, count, start_cost)
    )
    problems, tokens = weight.shape
    stride = min(stride, tokens)
    tie_break = torch.empty(problems, tokens, dtype=torch.float32, device=cost.device)
    chosen = torch.empty(problems, tokens, dtype=torch.int8, device=cost.device)
    facility_location_kernel[(problems,)](
        cost, weight, candidates.view(torch.int8), count, start_cost, tie_break, chosen, tokens, max_steps, stride,
        **tiles(tokens, stride),
    )  # fmt: skip
    return chosen.view(torch.bool)
