"""How new and how rare every token is, without a normalised copy of the tokens."""

import torch
import triton
import triton.language as tl


@triton.jit
def inverse_length(square):
    """1 / sqrt, 0 for 0: a token of zeros has no direction."""
    return tl.where(square > 0, 1 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)


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
    tl.store(inverse + row, inverse_length(square), mask=row < rows)


@triton.jit
def mean_kernel(tokens, inverse, mean, per_frame, dim, token_stride, BP: tl.constexpr, BD: tl.constexpr):
    """mean (T, D) of each frame's tokens at length 1; a program takes BD features of one frame."""
    frame = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    total = tl.zeros([BD], tl.float32)
    for start in range(0, per_frame, BP):
        place = start + tl.arange(0, BP)
        row = frame * per_frame + place
        mask = (place < per_frame)[:, None] & (d < dim)[None, :]
        x = tl.load(tokens + row[:, None] * token_stride + d[None, :], mask=mask, other=0.0).to(tl.float32)
        scale = tl.load(inverse + row, mask=place < per_frame, other=0.0)
        total += tl.sum(x * scale[:, None], 0)
    tl.store(mean + frame * dim + d, total / per_frame, mask=d < dim)


@triton.jit
def novelty_kernel(
    tokens, inverse, mean, change, rarity, per_frame, dim, token_stride, BP: tl.constexpr, BD: tl.constexpr
):
    """change and rarity (T, P); a program takes BP tokens of one frame."""
    frame = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BP + tl.arange(0, BP)
    valid = place < per_frame
    row = frame * per_frame + place
    earlier = tl.where(frame > 0, row - per_frame, row)
    with_earlier = tl.zeros([BP], tl.float32)
    with_mean = tl.zeros([BP], tl.float32)
    square = tl.zeros([BD], tl.float32)
    for start in range(0, dim, BD):
        d = start + tl.arange(0, BD)
        mask = valid[:, None] & (d < dim)[None, :]
        x = tl.load(tokens + row[:, None] * token_stride + d[None, :], mask=mask, other=0.0).to(tl.float32)
        y = tl.load(tokens + earlier[:, None] * token_stride + d[None, :], mask=mask, other=0.0).to(tl.float32)
        centre = tl.load(mean + frame * dim + d, mask=d < dim, other=0.0)
        with_earlier += tl.sum(x * y, 1)
        with_mean += tl.sum(x * centre[None, :], 1)
        square += centre * centre
    own = tl.load(inverse + row, mask=valid, other=0.0)
    before = tl.load(inverse + earlier, mask=valid, other=0.0)
    moved = tl.maximum(1 - with_earlier * own * before, 0.0)
    rare = tl.maximum(1 - with_mean * own * inverse_length(tl.sum(square, 0)), 0.0)
    tl.store(change + row, tl.where(frame > 0, moved, 0.0), mask=valid)
    tl.store(rarity + row, rare, mask=valid)


def novelty(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """change, rarity (T, P) float32; arguments as in `aot.ops.novelty`."""
    tokens = tokens.contiguous()
    frames, per_frame, dim = tokens.shape
    rows = frames * per_frame
    inverse, change, rarity = torch.empty(3, frames, per_frame, dtype=torch.float32, device=tokens.device)
    mean = torch.empty(frames, dim, dtype=torch.float32, device=tokens.device)
    length_kernel[(triton.cdiv(rows, 16),)](tokens, inverse, rows, dim, dim, BP=16, BD=256)
    mean_kernel[(triton.cdiv(dim, 64), frames)](tokens, inverse, mean, per_frame, dim, dim, BP=32, BD=64)
    novelty_kernel[(triton.cdiv(per_frame, 16), frames)](
        tokens, inverse, mean, change, rarity, per_frame, dim, dim, BP=16, BD=256
    )
    return change, rarity
