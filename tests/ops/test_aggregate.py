"""The merge of kept tokens with what was carried to them."""

import torch

from aot.ops import merge


def test_merge_weight_is_sensitive_to_one_percent():
    kept, carried, mass = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 6.0]]), torch.tensor([3.0])
    # (2, 0) + 0.5·(0, 6) over 1 + 1.5
    expected = torch.tensor([[0.8, 1.2]])
    torch.testing.assert_close(merge(kept, carried, mass, strength=0.5, cap=1.0), expected)
    off = merge(kept, carried, mass, strength=0.505, cap=1.0)
    assert ((off - expected).abs() > 3e-3 * expected).all()
    torch.testing.assert_close(merge(kept, carried, mass, strength=0.5, cap=0.25), torch.tensor([[1.5, 0.5]]))
