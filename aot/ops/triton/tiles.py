"""What the kernels share: sizes of tiles and the precision of their products."""

import torch
import triton
import triton.language as tl

LOG2E = 1.4426950408889634


def dot_precision(dtype: torch.dtype) -> str:
    """How tl.dot multiplies: float32 as three tf32 products, which keep its precision; half inputs do not ask."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


@triton.jit
def inverse_root(square):
    """1 / sqrt, 0 up to the 1e-36 of `MIN_LENGTH`: a token of zeros has no direction, its cosines are 0."""
    real = square > 1e-36
    return tl.where(real, 1 / tl.sqrt(tl.where(real, square, 1.0)), 0.0)
