"""Change of every token, 1 - cos with the frame before, without a normalised copy of the tokens."""

import torch
import triton
import triton.language as tl

from .tiles import inverse_root


@triton.jit
def length_kernel(tokens, inverse, rows, dim, token_stride, BP: tl.constexpr, BD: tl.constexpr):
    """inverse (rows,): 1 / length of each token; a program takes BP tokens."""
    row = tl.program_id(0) * BP + tl.arange(0, BP)
    square = tl.zeros([BP], tl.float32)
    for start in range(0, dim, BD):
        d = start + tl.arange(0, BD)
        mask = (row < rows)[:, None] & (d < dim)[None, :]
        x = tl.load(tokens + row.to(tl.int64)[:, None] * token_stride + d[None, :], mask=mask, other=0.0)
        square += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    tl.store(inverse + row, inverse_root(square), mask=row < rows)


@triton.jit
def mean_kernel(tokens, inverse, mean, rows, dim, token_stride, BP: tl.constexpr, BD: tl.constexpr):
    """mean (D,) of the tokens at length 1; a program takes BD features."""
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    total = tl.zeros([BD], tl.float32)
    for start in range(0, rows, BP):
        row = start + tl.arange(0, BP)
        mask = (row < rows)[:, None] & (d < dim)[None, :]
        x = tl.load(tokens + row.to(tl.int64)[:, None] * token_stride + d[None, :], mask=mask, other=0.0)
        scale = tl.load(inverse + row, mask=row < rows, other=0.0)
        total += tl.sum(x.to(tl.float32) * scale[:, None], 0)
    tl.store(mean + d, total / rows, mask=d < dim)


@triton.jit
def temporal_change_kernel(
    tokens, before, change, per_frame, dim, token_stride, before_stride, BP: tl.constexpr, BD: tl.constexpr
):
    """change (T, P); a program takes BP tokens of one frame. before: what frame 0 is compared with, place by place, or
    one token for all of them at before_stride 0."""
    parts = tl.cdiv(per_frame, BP)
    frame = (tl.program_id(0) // parts).to(tl.int64)
    place = tl.program_id(0) % parts * BP + tl.arange(0, BP)
    valid = place < per_frame
    row = frame * per_frame + place
    product = tl.zeros([BP], tl.float32)
    square = tl.zeros([BP], tl.float32)
    earlier_square = tl.zeros([BP], tl.float32)
    for start in range(0, dim, BD):
        d = start + tl.arange(0, BD)
        mask = valid[:, None] & (d < dim)[None, :]
        x = tl.load(tokens + row[:, None] * token_stride + d[None, :], mask=mask, other=0.0).to(tl.float32)
        if frame > 0:
            earlier = tokens + (row - per_frame)[:, None] * token_stride + d[None, :]
            y = tl.load(earlier, mask=mask, other=0.0).to(tl.float32)
        else:
            first = before + place.to(tl.int64)[:, None] * before_stride + d[None, :]
            y = tl.load(first, mask=mask, other=0.0).to(tl.float32)
        product += tl.sum(x * y, 1)
        square += tl.sum(x * x, 1)
        earlier_square += tl.sum(y * y, 1)
    moved = tl.maximum(1 - product * inverse_root(square) * inverse_root(earlier_square), 0.0)
    tl.store(change + row, moved, mask=valid)


def temporal_change(tokens: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
    """(T, P) float32; arguments as in `aot.ops.temporal_change`."""
    tokens = tokens.contiguous()
    frames, per_frame, dim = tokens.shape
    if before is None:  # the mean of the first frame's tokens at length 1
        inverse, before = (torch.empty(n, dtype=torch.float32, device=tokens.device) for n in (per_frame, dim))
        length_kernel[(triton.cdiv(per_frame, 16),)](tokens, inverse, per_frame, dim, dim, BP=16, BD=256)
        mean_kernel[(triton.cdiv(dim, 64),)](tokens, inverse, before, per_frame, dim, dim, BP=32, BD=64)
        stride = 0
    else:
        before, stride = before.contiguous(), dim
    change = torch.empty(frames, per_frame, dtype=torch.float32, device=tokens.device)
    temporal_change_kernel[(triton.cdiv(per_frame, 16) * frames,)](
        tokens, before, change, per_frame, dim, dim, stride, BP=16, BD=256
    )
    return change
