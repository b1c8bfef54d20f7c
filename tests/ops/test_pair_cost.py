"""Costs of token pairs against sums worked out by hand."""

import math

import pytest
import torch

from aot.ops import pair_cost
from aot.ops.pair_cost import grid_distances


def test_grid_distances():
    distances = grid_distances((3, 2))
    assert float(distances[0, 5]) == pytest.approx(math.sqrt(2))
    assert float(distances[0, 2]) == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("spatial", "temporal"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.7, 0.3)])
def test_costs_are_those_of_a_loop_in_float64(dtype, spatial, temporal):
    """1 - cos, the distance of places on sides of length 1 and the frames in between, each with its weight.

    Two groups of two frames of 2x3 tokens; the second reaches beyond the end and repeats the last frame.
    """
    tokens = (4 * torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
    starts, anchor = torch.tensor([0, 2]), torch.tensor([[1, 7, 10], [12, 13, 17]])
    settings = {"grid": (2, 3), "spatial_weight": spatial, "temporal_weight": temporal}
    pairs = pair_cost(tokens, starts, 2, **settings)
    some = pair_cost(tokens, starts, 2, anchor, **settings)
    assert pairs.dtype == some.dtype == torch.float32 and pairs.shape == (2, 12, 12) and some.shape == (2, 12, 3)
    for group, start in enumerate((0, 2)):
        for i in range(12):
            for j in range(12):
                a, b = (tokens[min(2, start + k // 6), k % 6].double() for k in (i, j))
                places = [(k % 6 // 3, k % 3 / 2) for k in (i, j)]
                expected = 1 - float(torch.dot(a, b) / (a.norm() * b.norm()))
                expected += spatial * math.dist(*places) + temporal * abs(i // 6 - j // 6)
                assert float(pairs[group, i, j]) == pytest.approx(expected, abs=3e-6)
        torch.testing.assert_close(some[group], pairs[group][:, anchor[group] - 6 * start], rtol=0, atol=3e-6)
