"""Transport cost of token pairs from the tokens as they are: gathered and normalised inside the product."""

import torch
import triton
import triton.language as tl

from .tiles import dot_precision, inverse_root


@triton.jit
def grid_place(place, width, height):
    """Row and column in [0, 1] of places in a frame."""
    row = (place // width).to(tl.float32) / tl.maximum(height - 1, 1).to(tl.float32)
    column = (place % width).to(tl.float32) / tl.maximum(width - 1, 1).to(tl.float32)
    return row, column


@triton.jit(do_not_specialize=["frames", "anchors"])
def pair_cost_kernel(
    tokens, starts, anchor, cost, frames, suppliers, anchors, dim, height, width, spatial_weight, temporal_weight,
    ALL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """cost (G, M, K); a program takes BM suppliers and BN anchors of one group.

    ALL: suppliers and anchors are the same tokens, so that half of the tiles say it all; BM is BN then.
    """
    # tiles of a group follow each other on the one axis of the grid that has room for any number
    rows, columns = tl.cdiv(suppliers, BM), tl.cdiv(anchors, BN)
    tile = tl.program_id(0)
    tile_m, tile_n = tile % rows, tile // rows % columns
    if ALL and tile_m > tile_n:
        return
    group = (tile // (rows * columns)).to(tl.int64)
    m = tile_m * BM + tl.arange(0, BM)
    n = tile_n * BN + tl.arange(0, BN)
    per_frame = height * width
    first = tl.load(starts + group)
    left = tl.minimum(first + m // per_frame, frames - 1) * per_frame + m % per_frame
    if ALL:
        right = tl.minimum(first + n // per_frame, frames - 1) * per_frame + n % per_frame
        later, place_n = n // per_frame, n % per_frame
    else:
        right = tl.load(anchor + group * anchors + n, mask=n < anchors, other=0)
        later, place_n = (right // per_frame - first).to(tl.int32), (right % per_frame).to(tl.int32)
    product = tl.zeros([BM, BN], tl.float32)
    left_square = tl.zeros([BM], tl.float32)
    right_square = tl.zeros([BN], tl.float32)
    for start in range(0, dim, BD):
        d = start + tl.arange(0, BD)
        inside = (d < dim)[None, :]
        x = tl.load(tokens + left[:, None] * dim + d[None, :], mask=inside, other=0.0)
        y = tl.load(tokens + right[:, None] * dim + d[None, :], mask=inside, other=0.0)
        product = tl.dot(x, tl.trans(y), product, input_precision=PRECISION)
        left_square += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
        right_square += tl.sum(y.to(tl.float32) * y.to(tl.float32), 1)
    value = 1 - product * inverse_root(left_square)[:, None] * inverse_root(right_square)[None, :]
    row_m, column_m = grid_place(m % per_frame, width, height)
    row_n, column_n = grid_place(place_n, width, height)
    down = row_m[:, None] - row_n[None, :]
    across = column_m[:, None] - column_n[None, :]
    value += spatial_weight * tl.sqrt(down * down + across * across)
    value += temporal_weight * tl.abs((m // per_frame)[:, None] - later[None, :]).to(tl.float32)
    stride = suppliers if ALL else anchors  # of a row; Triton knows what divides the former
    # int64: from 46,341 tokens on a square exceeds int32
    place = (cost + (group * suppliers + m) * stride)[:, None] + n[None, :]
    tl.store(place, value, mask=(m < suppliers)[:, None] & (n < anchors)[None, :])
    if ALL and tile_m < tile_n:
        place = (cost + (group * suppliers + n) * stride)[:, None] + m[None, :]
        tl.store(place, tl.trans(value), mask=(n < anchors)[:, None] & (m < suppliers)[None, :])


def pair_cost(
    tokens: torch.Tensor,
    starts: torch.Tensor,
    length: int,
    anchor: torch.Tensor | None,
    *,
    grid: tuple[int, int],
    spatial_weight: float,
    temporal_weight: float,
) -> torch.Tensor:
    """(G, M, K) float32; arguments as in `aot.ops.pair_cost`."""
    tokens = tokens.contiguous()
    frames, per_frame, dim = tokens.shape
    groups, suppliers = len(starts), length * per_frame
    anchors = suppliers if anchor is None else anchor.shape[1]
    cost = torch.empty(groups, suppliers, anchors, dtype=torch.float32, device=tokens.device)
    # wide tiles read each token fewer times; float32 products need the registers
    side, warps = (64, 4) if tokens.dtype == torch.float32 or anchors < 128 else (128, 8)
    pair_cost_kernel[(triton.cdiv(suppliers, side) * triton.cdiv(anchors, side) * groups,)](
        tokens, starts, starts if anchor is None else anchor.contiguous(), cost, frames, suppliers, anchors, dim,
        *grid, spatial_weight, temporal_weight,
        ALL=anchor is None, BM=side, BN=side, BD=32 if tokens.dtype == torch.float32 else 64,
        PRECISION=dot_precision(tokens.dtype), num_warps=warps,
    )  # fmt: skip
    return cost
