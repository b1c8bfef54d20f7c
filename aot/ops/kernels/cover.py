"""Greedy facility location: one program walks the steps of a problem, so that no step waits for a launch."""

import torch
import triton
import triton.language as tl

TILE = 2**14  # costs that one look takes, 64 KB
MOST_CANDIDATES = 64  # of a look; more would spill registers


@triton.jit(do_not_specialize=["steps"])
def cover_kernel(
    cost, weight, free, count, start_left, tie, chosen, tokens, steps, every,
    BJ: tl.constexpr, NP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """chosen (B, n). Rows and columns of cost (B, n, n) are the same, so that a candidate's costs are read in a row.

    free (B, n): may be chosen and is not kept. start_left (B, n): what a token costs before anything is chosen.
    tie (B, n): what a candidate is worth where nothing is to be gained, -inf when it may not be chosen.
    """
    problem = tl.program_id(0).to(tl.int64)
    cost += problem * tokens * tokens
    tie += problem * tokens
    chosen += problem * tokens
    wanted = tl.load(count + problem).to(tl.int32)
    i, j = tl.arange(0, NP), tl.arange(0, BJ)
    inside = i < tokens
    heavy = tl.load(weight + problem * tokens + i, mask=inside, other=0.0)
    heavy = tl.where(heavy > 0, tl.minimum(heavy, 1e30), 0.0)  # NaN weighs nothing
    open_ = tl.load(free + problem * tokens + i, mask=inside, other=0) > 0
    scale = tl.maximum(tl.max(heavy, 0), 1.1754943508222875e-38)
    tl.store(tie + i, tl.where(open_, heavy / scale * 1e-6, -float("inf")), mask=inside)
    tl.store(chosen + i, tl.zeros([NP], tl.int8), mask=inside)
    left = tl.load(start_left + problem * tokens + i, mask=inside, other=0.0)  # what each token costs as things are
    tl.debug_barrier()

    found = 0
    step = 0
    last = tl.minimum(steps, wanted)
    while step < last:
        # the candidates of this step: step % every, and every further one
        top = -float("inf")
        best = 0
        for start in tl.range(step % every, tokens, BJ * every, num_stages=STAGES):
            candidate = start + j * every
            real = candidate < tokens
            place = candidate.to(tl.int64)[:, None] * tokens + i[None, :]
            price = tl.load(cost + place, mask=real[:, None] & inside[None, :], other=float("inf"))
            gain = tl.sum(tl.maximum(left[None, :] - price, 0.0) * heavy[None, :], 1)
            gain += tl.load(tie + candidate, mask=real, other=-float("inf"))
            gain = tl.where(gain == gain, gain, -float("inf"))  # NaN is passed over, the count stays exact
            most = tl.max(gain, 0)
            if most > top:  # of equal ones the first
                top = most
                best = tl.min(tl.where(gain == most, candidate, tokens), 0)
        tl.debug_barrier()  # what follows overwrites what others may still read
        if top > -float("inf"):
            price = tl.load(cost + best.to(tl.int64) * tokens + i, mask=inside, other=float("inf"))
            left = tl.minimum(left, price)
            tl.store(chosen + best, 1)
            tl.store(tie + best, -float("inf"))
            found += 1
        step += 1
        tl.debug_barrier()

    # what the steps left open goes to the largest weights
    while found < wanted:
        worth = tl.load(tie + i, mask=inside, other=-float("inf"))
        top = tl.max(worth, 0)
        best = tl.min(tl.where(worth == top, i, tokens - 1), 0)
        tl.debug_barrier()
        if top > -float("inf"):
            tl.store(chosen + best, 1)
            tl.store(tie + best, -float("inf"))
        found += 1
        tl.debug_barrier()


def tiles(tokens: int, every: int) -> dict[str, int]:
    """Constants of a launch: candidates BJ and padded tokens NP of a look, stages of its pipeline, warps."""
    padded = max(16, triton.next_power_of_2(tokens))
    high = min(MOST_CANDIDATES, triton.next_power_of_2(triton.cdiv(tokens, every)), TILE // padded)
    # small problems are many at once, which hides the way to memory as well as fetching ahead does
    stages = 3 if padded > 512 else 1
    return {"BJ": high, "NP": padded, "STAGES": stages, "num_warps": min(8, max(1, high * padded // 1024))}


def cover(
    cost: torch.Tensor,
    weight: torch.Tensor,
    taken: torch.Tensor | None,
    free: torch.Tensor,
    count: torch.Tensor,
    *,
    steps: int,
    unexplained: float,
    every: int,
) -> torch.Tensor:
    """(B, n) bool; arguments as in `aot.ops.cover`."""
    if taken is None:
        left = torch.full(weight.shape, unexplained, device=cost.device)
    else:
        # over the whole device: a few rows of many, which one program would look for one after another
        left, free = torch.where(taken.unsqueeze(2), cost, unexplained).amin(dim=1), free & ~taken
    cost, weight, free, count, left = (x.contiguous() for x in (cost, weight, free, count, left))
    problems, tokens = weight.shape
    every = min(every, tokens)
    tie = torch.empty(problems, tokens, dtype=torch.float32, device=cost.device)
    chosen = torch.empty(problems, tokens, dtype=torch.int8, device=cost.device)
    cover_kernel[(problems,)](
        cost, weight, free.view(torch.int8), count, left, tie, chosen, tokens, steps, every,
        **tiles(tokens, every),
    )  # fmt: skip
    return chosen.view(torch.bool)
