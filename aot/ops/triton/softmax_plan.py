"""Plans with free anchor marginals, supply_i · softmax_j(-cost_ij / ε), from costs read where they lie."""

import torch
import triton
import triton.language as tl

from .tiles import LOG2E


@triton.jit(do_not_specialize=["anchors"])
def softmax_plan_kernel(
    cost, anchor, valid_anchor, supply, plan, suppliers, columns, anchors, rate, BM: tl.constexpr, KP: tl.constexpr
):
    """plan (B, M, K); a program takes BM suppliers of one problem. rate = log2(e) / ε."""
    parts = tl.cdiv(suppliers, BM)
    problem = (tl.program_id(0) // parts).to(tl.int64)
    m = tl.program_id(0) % parts * BM + tl.arange(0, BM)
    k = tl.arange(0, KP)
    valid = m < suppliers
    real = tl.load(valid_anchor + problem * anchors + k, mask=k < anchors, other=0) > 0
    column = tl.load(anchor + problem * anchors + k, mask=real, other=0)
    row = problem * suppliers + m
    both = valid[:, None] & real[None, :]
    anchor_cost = tl.load(cost + row[:, None] * columns + column[None, :], mask=both, other=float("inf"))
    least = tl.min(anchor_cost, 1)
    share = tl.exp2((tl.where(valid, least, 0.0)[:, None] - anchor_cost) * rate)
    mass = tl.load(supply + row, mask=valid, other=0.0)
    share *= (mass / tl.where(valid, tl.sum(share, 1), 1.0))[:, None]
    inside = valid[:, None] & (k < anchors)[None, :]
    tl.store(plan + row[:, None] * anchors + k[None, :], share, mask=inside)


def softmax_plan(
    cost: torch.Tensor, anchor: torch.Tensor, valid: torch.Tensor, supply: torch.Tensor, *, epsilon: float
) -> torch.Tensor:
    """(B, M, K) float32; arguments as in `aot.ops.softmax_plan`."""
    cost, anchor, valid, supply = (x.contiguous() for x in (cost, anchor, valid, supply))
    problems, suppliers, columns = cost.shape
    anchors = anchor.shape[1]
    plan = torch.empty(problems, suppliers, anchors, dtype=torch.float32, device=cost.device)
    padded = max(16, triton.next_power_of_2(anchors))
    block = max(1, 4096 // padded)
    softmax_plan_kernel[(triton.cdiv(suppliers, block) * problems,)](
        cost, anchor, valid.view(torch.int8), supply, plan, suppliers, columns, anchors, LOG2E / epsilon,
        BM=block, KP=padded,
    )  # fmt: skip
    return plan
