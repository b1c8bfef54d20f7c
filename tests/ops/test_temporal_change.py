"""Change of tokens from frame to frame."""

import pytest
import torch

from aot.ops import temporal_change


def test_change_is_never_below_zero():
    """Tokens that equal each other have a cosine of 1, which rounding may exceed."""
    tokens = torch.randn(50, 1, 33, generator=torch.Generator().manual_seed(0)).expand(-1, 4, -1)
    for frame in tokens:
        found = temporal_change(frame.expand(2, -1, -1))
        assert float(found.min()) >= 0 and float(found.max()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_read_as_float32(dtype):
    tokens = (3 * torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
    whole = temporal_change(tokens.float())
    assert whole.dtype == torch.float32 and torch.equal(temporal_change(tokens), whole)
    assert torch.equal(temporal_change(tokens[1:], tokens[:1])[0], whole[1])
