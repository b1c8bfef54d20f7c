"""Change of tokens from frame to frame."""

import torch

from aot.ops import temporal_change


def test_change_is_never_below_zero():
    """Tokens that equal each other have a cosine of 1, which rounding may exceed."""
    tokens = torch.randn(50, 1, 33, generator=torch.Generator().manual_seed(0)).expand(-1, 4, -1)
    for frame in tokens:
        found = temporal_change(frame.expand(2, -1, -1))
        assert float(found.min()) >= 0 and float(found.max()) < 1e-6
