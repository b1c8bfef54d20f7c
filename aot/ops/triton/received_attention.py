"""Received attention without an N x N map: column sums of a softmax whose log-sum-exp is known."""

import torch
import triton
import triton.language as tl

from .tiles import LOG2E, dot_precision


@triton.jit
def part(base, index, valid, stride, START: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr):
    """(n, SIZE) features START .. START + SIZE of the rows `index`; 0 outside."""
    column = START + tl.arange(0, SIZE)
    inside = valid[:, None]
    if START + SIZE > D:
        inside = inside & (column < D)[None, :]
    return tl.load(base + index.to(tl.int64)[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def one_head(base, pair, heads, batch_stride, head_stride, ALIGN: tl.constexpr):
    """Where batch element pair // heads, head pair % heads begins, which ALIGN values divide."""
    offset = (pair // heads).to(tl.int64) * batch_stride + (pair % heads).to(tl.int64) * head_stride
    return base + tl.multiple_of(offset, ALIGN)


@triton.jit
def lse_kernel(
    q, k, lse, scale, heads, queries, keys,
    q_batch, q_head, q_row, k_batch, k_head, k_row,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, ALIGN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """lse (B, H, N): natural log of each query's sum of exp(q kᵀ · scale); a program takes BM queries."""
    parts = tl.cdiv(queries, BM)
    pair = tl.program_id(0) // parts
    q = one_head(q, pair, heads, q_batch, q_head, ALIGN)
    k = one_head(k, pair, heads, k_batch, k_head, ALIGN)
    row = tl.program_id(0) % parts * BM + tl.arange(0, BM)
    q_main = part(q, row, row < queries, q_row, 0, MAIN, D)
    if REST > 0:
        q_rest = part(q, row, row < queries, q_row, MAIN, REST, D)
    top = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    for start in range(0, keys, BN):
        column = start + tl.arange(0, BN)
        score = tl.dot(q_main, tl.trans(part(k, column, column < keys, k_row, 0, MAIN, D)), input_precision=PRECISION)
        if REST > 0:
            k_rest = part(k, column, column < keys, k_row, MAIN, REST, D)
            score += tl.dot(q_rest, tl.trans(k_rest), input_precision=PRECISION)
        score = tl.where((column < keys)[None, :], score * scale, -float("inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(score - higher[:, None]), 1)
        top = higher
    tl.store(lse + pair.to(tl.int64) * queries + row, (top + tl.log2(total)) / 1.4426950408889634, mask=row < queries)


@triton.jit
def column_sum_kernel(
    q, k, lse, received, scale, heads, queries, keys,
    q_batch, q_head, q_row, k_batch, k_head, k_row, lse_batch, lse_head,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, ALIGN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """received (B, H, N): sum over queries of exp(q kᵀ · scale - lse); a program takes BN keys."""
    parts = tl.cdiv(keys, BN)
    pair = tl.program_id(0) // parts
    q = one_head(q, pair, heads, q_batch, q_head, ALIGN)
    k = one_head(k, pair, heads, k_batch, k_head, ALIGN)
    lse = one_head(lse, pair, heads, lse_batch, lse_head, 1)
    column = tl.program_id(0) % parts * BN + tl.arange(0, BN)
    k_main = part(k, column, column < keys, k_row, 0, MAIN, D)
    if REST > 0:
        k_rest = part(k, column, column < keys, k_row, MAIN, REST, D)
    total = tl.zeros([BN], tl.float32)
    for start in range(0, queries, BM):
        row = start + tl.arange(0, BM)
        score = tl.dot(part(q, row, row < queries, q_row, 0, MAIN, D), tl.trans(k_main), input_precision=PRECISION)
        if REST > 0:
            q_rest = part(q, row, row < queries, q_row, MAIN, REST, D)
            score += tl.dot(q_rest, tl.trans(k_rest), input_precision=PRECISION)
        # a query beyond the last has an infinite sum and gives nothing
        sums = tl.load(lse + row, mask=row < queries, other=float("inf")) * 1.4426950408889634
        total += tl.sum(tl.exp2(score * scale - sums[:, None]), 0)
    tl.store(received + pair.to(tl.int64) * keys + column, total, mask=column < keys)


def received_attention(q: torch.Tensor, k: torch.Tensor, scale: float, lse: torch.Tensor | None) -> torch.Tensor:
    """(B, N) float32; arguments as in `aot.ops.received_attention`."""
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    # products take powers of two, and a head of 72 padded to 128 would cost 78 % more: 72 = 64 + 8, padded to 64 + 16
    main = max(16, 1 << (width.bit_length() - 1))
    rest = 0 if width <= main else max(16, triton.next_power_of_2(width - main))
    block = 64 if q.dtype == torch.float32 or width > 128 else 128
    settings = {"D": width, "MAIN": main, "REST": rest, "BN": 64, "PRECISION": dot_precision(q.dtype)}
    strides = (*q.stride()[:3], *k.stride()[:3])
    # Triton knows of an integer whether 16 divides it; a head of 72 lies at a multiple of 8, which 16-byte loads need
    whole = 16 // q.element_size()
    settings["ALIGN"] = whole if all(stride % whole == 0 for stride in strides) else 1
    if lse is None:
        lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
        grid = (triton.cdiv(queries, block) * batch * heads,)
        lse_kernel[grid](q, k, lse, scale * LOG2E, heads, queries, keys, *strides, BM=block, **settings)
    elif lse.stride(-1) != 1:
        lse = lse.contiguous()
    received = torch.empty(batch, heads, keys, dtype=torch.float32, device=q.device)
    column_sum_kernel[(triton.cdiv(keys, 64) * batch * heads,)](
        q, k, lse, received, scale * LOG2E, heads, queries, keys, *strides, *lse.stride()[:2], BM=block, **settings
    )
    return received.mean(dim=1)
