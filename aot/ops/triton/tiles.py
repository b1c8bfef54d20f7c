"""What the kernels share: sizes of tiles and the precision of their products."""

import torch
import triton
import triton.language as tl

LOG2E = 1.4426950408889634


def head_parts(width: int) -> tuple[int, int]:
    """A width as a power of two and what is left, padded to one, each at least 16: 72 -> (64, 16).

    Products take powers of two; a head of 72 padded to 128 would cost 78 % more.
    """
    main = max(16, 1 << (width.bit_length() - 1))
    rest = width - main
    return main, 0 if rest <= 0 else max(16, triton.next_power_of_2(rest))


def dot_precision(dtype: torch.dtype) -> str:
    """How tl.dot multiplies: float32 as three tf32 products, which keep its precision; half inputs do not ask."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


@triton.jit
def inverse_root(square):
    """1 / sqrt, 0 up to the 1e-36 of `MIN_LENGTH`: a token of zeros has no direction, its cosines are 0."""
    real = square > 1e-36
    return tl.where(real, 1 / tl.sqrt(tl.where(real, square, 1.0)), 0.0)
