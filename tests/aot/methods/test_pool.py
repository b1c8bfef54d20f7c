"""pool: cells of near-equal size over space and time."""

import pytest
import torch

from aot import AOTConfig, compress, method_names
from aot.methods.pool import cells, group_count


def test_a_quarter_of_an_even_grid_is_its_two_by_two_means():
    features = torch.randn(5, 36, 4)
    video = compress(features, None, None, AOTConfig(method="pool", retention=0.25), pool=None)
    expected = features.view(5, 3, 2, 3, 2, 4).mean(dim=(2, 4)).flatten(0, 2)
    torch.testing.assert_close(video.tokens, expected)
    assert video.mass.tolist() == [4.0] * 45
    assert video.position[:4].tolist() == [[0, 0], [0, 2], [0, 4], [2, 0]]


def test_an_eighth_halves_each_axis():
    features = torch.randn(6, 16, 3)
    video = compress(features, None, None, AOTConfig(method="pool", retention=0.125), pool=None)
    torch.testing.assert_close(video.tokens, features.view(3, 2, 2, 2, 2, 2, 3).mean(dim=(1, 3, 5)).flatten(0, 2))
    assert video.frame.tolist() == [0] * 4 + [2] * 4 + [4] * 4 and float(video.mass.sum()) == 96


@pytest.mark.parametrize(
    ("retention", "budget", "groups"),
    # cells of 1, 2, 2, 3 and 4 tokens a side leave 36, 9, 9, 4 and 4 for each group of frames of 6x6
    [(0.5, 288, 8), (0.25, 144, 16), (0.1, 57, 6), (0.05, 28, 7), (0.02, 11, 3), (0.001, 1, 1), (1.0, 576, 16)],
)
def test_axes_are_shortened_alike(retention, budget, groups):
    assert group_count(retention, budget, 16, (6, 6)) == groups


def test_cells_are_near_equal_and_tile_the_grid():
    for grid in ((1, 1), (1, 9), (6, 6), (5, 7), (12, 3)):
        places = grid[0] * grid[1]
        for count in range(1, places + 1):
            cell, middle = cells(grid, count)
            sizes = cell.bincount()
            assert len(sizes) == count == len(middle) and int(sizes.min()) >= 1
            assert torch.equal(cell[middle], torch.arange(count))  # each place lies in its own cell
            assert bool((middle.diff() > 0).all())
    # 10 of 6x6: three bands of two rows with 3, 3 and 4 cells
    assert cells((6, 6), 10)[0].view(6, 6)[::2].tolist() == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [6, 6, 7, 8, 8, 9]]


def test_floors_are_named_apart():
    assert method_names("floor") == ["first", "frames", "pool", "random", "uniform"]
    apart = [*method_names("floor"), *method_names("method"), *method_names("tuned")]
    assert sorted(apart) == method_names()
