"""Greedy facility location: one program walks the steps of a problem, so that no step waits for a launch."""

import torch
import triton
import triton.language as tl


@triton.jit
def cover_kernel(
    cost, weight, taken, free, count, left, tie, chosen, tokens, steps, every, unexplained,
    BJ: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """chosen (B, n). Rows and columns of cost (B, n, n) are the same, so that a candidate's costs are read in a row.

    left (B, n): what a token costs as things are. tie (B, n): what a candidate is worth where nothing is to be gained,
    -inf when it may not be chosen.
    """
    problem = tl.program_id(0).to(tl.int64)
    cost += problem * tokens * tokens
    weight += problem * tokens
    taken += problem * tokens
    free += problem * tokens
    left += problem * tokens
    tie += problem * tokens
    chosen += problem * tokens
    wanted = tl.load(count + problem).to(tl.int32)
    i = tl.arange(0, BN)
    j = tl.arange(0, BJ)

    heaviest = tl.zeros([BN], tl.float32)
    for start in range(0, tokens, BN):
        heaviest = tl.maximum(heaviest, tl.load(weight + start + i, mask=start + i < tokens, other=0.0))
    scale = tl.maximum(tl.max(heaviest, 0), 1.1754943508222875e-38)
    for start in range(0, tokens, BN):
        inside = start + i < tokens
        open_ = (tl.load(free + start + i, mask=inside, other=0) > 0) & (
            tl.load(taken + start + i, mask=inside, other=1) == 0
        )
        worth = tl.load(weight + start + i, mask=inside, other=0.0) / scale * 1e-6
        tl.store(tie + start + i, tl.where(open_, worth, -float("inf")), mask=inside)
        tl.store(chosen + start + i, tl.zeros([BN], tl.int8), mask=inside)
        least = tl.full([BN], 0.0, tl.float32) + unexplained
        for row in range(0, tokens, BJ):
            kept = tl.load(taken + row + j, mask=row + j < tokens, other=0) > 0
            place = (row + j).to(tl.int64)[:, None] * tokens + (start + i)[None, :]
            price = tl.load(cost + place, mask=kept[:, None] & inside[None, :], other=float("inf"))
            least = tl.minimum(least, tl.min(price, 0))
        tl.store(left + start + i, least, mask=inside)
    tl.debug_barrier()

    found = 0
    step = 0
    last = tl.minimum(steps, wanted)
    while step < last:
        # the candidates of this step: step % every, and every further one
        offset = step % every
        top = -float("inf")
        best = 0
        for start in range(offset, tokens, BJ * every):
            candidate = start + j * every
            real = candidate < tokens
            gain = tl.load(tie + candidate, mask=real, other=-float("inf"))
            for begin in range(0, tokens, BN):
                inside = begin + i < tokens
                now = tl.load(left + begin + i, mask=inside, other=0.0)
                heavy = tl.load(weight + begin + i, mask=inside, other=0.0)
                place = candidate.to(tl.int64)[:, None] * tokens + (begin + i)[None, :]
                price = tl.load(cost + place, mask=real[:, None] & inside[None, :], other=float("inf"))
                gain += tl.sum(tl.maximum(now[None, :] - price, 0.0) * heavy[None, :], 1)
            most = tl.max(gain, 0)
            if most > top:  # of equal ones the first
                top = most
                best = tl.min(tl.where(gain == most, candidate, tokens), 0)
        tl.debug_barrier()  # what follows overwrites what others may still read
        if top > -float("inf"):
            for begin in range(0, tokens, BN):
                inside = begin + i < tokens
                price = tl.load(cost + best.to(tl.int64) * tokens + begin + i, mask=inside, other=float("inf"))
                now = tl.load(left + begin + i, mask=inside, other=0.0)
                tl.store(left + begin + i, tl.minimum(now, price), mask=inside)
            tl.store(chosen + best, 1)
            tl.store(tie + best, -float("inf"))
            found += 1
        step += 1
        tl.debug_barrier()

    # what the steps left open goes to the largest weights
    while found < wanted:
        top = -float("inf")
        best = 0
        for start in range(0, tokens, BN):
            worth = tl.load(tie + start + i, mask=start + i < tokens, other=-float("inf"))
            most = tl.max(worth, 0)
            if most > top:
                top = most
                best = tl.min(tl.where(worth == most, start + i, tokens), 0)
        tl.debug_barrier()
        if top > -float("inf"):
            tl.store(chosen + best, 1)
            tl.store(tie + best, -float("inf"))
        found += 1
        tl.debug_barrier()


def cover(
    cost: torch.Tensor,
    weight: torch.Tensor,
    taken: torch.Tensor,
    free: torch.Tensor,
    count: torch.Tensor,
    *,
    steps: int,
    unexplained: float,
    every: int,
) -> torch.Tensor:
    """(B, n) bool; arguments as in `aot.ops.cover`."""
    cost, weight, taken, free, count = (x.contiguous() for x in (cost, weight, taken, free, count))
    problems, tokens = weight.shape
    every = min(every, tokens)
    left, tie = torch.empty(2, problems, tokens, dtype=torch.float32, device=cost.device)
    chosen = torch.empty(problems, tokens, dtype=torch.int8, device=cost.device)
    # a tile holds as many costs as fill the registers of half a multiprocessor, so that few trips to memory are made
    wide = min(1024, max(16, triton.next_power_of_2(tokens)))
    candidates = triton.next_power_of_2(triton.cdiv(tokens, every))
    high = min(candidates, 2**15 // wide)
    cover_kernel[(problems,)](
        cost, weight, taken.view(torch.int8), free.view(torch.int8), count, left, tie, chosen,
        tokens, steps, every, unexplained,
        BJ=high, BN=wide, num_warps=min(16, max(1, high * wide // 2048)),
    )  # fmt: skip
    return chosen.view(torch.bool)
