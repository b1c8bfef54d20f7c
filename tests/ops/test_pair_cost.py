"""Costs of token pairs against sums worked out by hand."""

import math

import pytest
import torch

from aot.ops import pair_cost
from aot.ops.pair_cost import grid_distances


def test_cost_of_a_clip_by_hand():
    """1 - cos, the distance of places on sides of length 1 and the frames in between, each with its weight."""
    features = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0))
    weights = {"spatial_weight": 0.5, "temporal_weight": 0.3}
    cost = pair_cost(features, torch.tensor([0, 3]), 3, grid=(2, 2), **weights)
    unit = torch.nn.functional.normalize(features.double().flatten(0, 1), dim=1)
    for clip, (first, frames) in enumerate([(0, 3), (3, 2)]):
        for i in range(4 * frames):
            for j in range(4 * frames):
                far = ((i // 2 % 2 - j // 2 % 2) ** 2 + (i % 2 - j % 2) ** 2) ** 0.5
                expected = 1 - float(unit[4 * first + i] @ unit[4 * first + j])
                expected += 0.5 * far + 0.3 * abs(i // 4 - j // 4)
                assert float(cost[clip, i, j]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_grid_distances():
    distances = grid_distances((3, 2))
    assert float(distances[0, 5]) == pytest.approx(math.sqrt(2))
    assert float(distances[0, 2]) == pytest.approx(0.5)
