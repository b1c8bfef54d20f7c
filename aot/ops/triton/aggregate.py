"""What a plan carries: sums of tokens weighted by the plan, read where they lie."""

import torch
import triton
import triton.language as tl

from .tiles import dot_precision


@triton.jit(do_not_specialize=["frames", "anchors"])
def aggregate_kernel(
    plan, tokens, starts, carried, frames, per_frame, suppliers, anchors, dim,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """carried (G, K, D); a program takes BN anchors and BD features of one group."""
    parts, rows = tl.cdiv(dim, BD), tl.cdiv(anchors, BN)
    tile = tl.program_id(0)
    group = (tile // (parts * rows)).to(tl.int64)
    d = tile % parts * BD + tl.arange(0, BD)
    n = tile // parts % rows * BN + tl.arange(0, BN)
    total = tl.zeros([BN, BD], tl.float32)
    for start in range(0, suppliers, BM):
        m = start + tl.arange(0, BM)
        valid = m < suppliers
        index = tl.minimum(tl.load(starts + group) + m // per_frame, frames - 1) * per_frame + m % per_frame
        # the plan is read transposed, (BN, BM)
        place = plan + group * suppliers * anchors + m.to(tl.int64)[None, :] * anchors + n[:, None]
        weight = tl.load(place, mask=valid[None, :] & (n < anchors)[:, None], other=0.0)
        mask = valid[:, None] & (d < dim)[None, :]
        x = tl.load(tokens + index[:, None] * dim + d[None, :], mask=mask, other=0.0)
        total = tl.dot(weight.to(x.dtype), x, total, input_precision=PRECISION)
    place = carried + group * anchors * dim + n.to(tl.int64)[:, None] * dim + d[None, :]
    tl.store(place, total, mask=(n < anchors)[:, None] & (d < dim)[None, :])


def aggregate(plan: torch.Tensor, tokens: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """(G, K, D) float32; arguments as in `aot.ops.aggregate`."""
    tokens, plan = tokens.contiguous(), plan.contiguous()
    frames, per_frame, dim = tokens.shape
    groups, _, anchors = plan.shape
    carried = torch.empty(groups, anchors, dim, dtype=torch.float32, device=tokens.device)
    aggregate_kernel[(triton.cdiv(dim, 64) * triton.cdiv(anchors, 64) * groups,)](
        plan, tokens, starts, carried, frames, per_frame, length * per_frame, anchors, dim,
        BM=32, BN=64, BD=64, PRECISION=dot_precision(tokens.dtype),
    )  # fmt: skip
    return carried
