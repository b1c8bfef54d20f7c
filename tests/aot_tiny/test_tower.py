"""The tower's stage: what it is told to keep of the tower it began with."""

import pytest
import torch
from torch import nn

from aot_tiny.training.data import IGNORE
from aot_tiny.training.tower import DenseTower

GRID, WIDTH = 2, 3


class Patches(nn.Module):
    """A tower whose features are a table, whatever it sees."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.tensor([[0.0, 0, 0], [1, 2, 3], [2, 4, 6], [3, 6, 9]]))

    def forward(self, pixels):
        return self.table.expand(len(pixels), -1, -1)


def missed(change, *, distilling=2.0, taught=True):
    """What the stage logs, and its loss, after a change (4, 3) of the features. Patch 1 is a sign's, 3 has no label."""
    torch.manual_seed(0)
    stage = DenseTower(Patches(), WIDTH, GRID, places=False, distilling=distilling)
    if taught:
        stage.start_from(Patches().state_dict())
    with torch.no_grad():
        stage.tower.table += change
    label = {
        "color": torch.tensor([0, 1, 2, IGNORE]),
        "shape": torch.tensor([0, 8, 1, IGNORE]),
        "digit": torch.tensor([0, 4, IGNORE, IGNORE]),
    }
    labels = {name: value.view(1, 1, GRID, GRID) for name, value in label.items()}
    out = stage(torch.zeros(1, 1, 3, 16, 16), **labels, offset=torch.zeros(1, 1, GRID, GRID, 2))
    return tuple(float(value) for value in (out.get("missed", 0), out["loss"].detach()))


def test_nothing_is_missed_at_the_start():
    assert missed(torch.zeros(4, 3))[0] == 0


def test_what_is_missed_is_the_squared_change_over_each_channels_variance():
    change = torch.zeros(4, 3)
    change[0], change[2] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 3.0])
    # variances 5/3, 20/3 and 15 over the four patches; two of them, each of three channels, are to stay
    assert missed(change)[0] == pytest.approx((1 / (5 / 3) + 9 / 15) / 6)


def test_a_sign_and_what_has_no_label_are_free():
    change = torch.zeros(4, 3)
    change[1] = change[3] = 5
    assert missed(change)[0] == 0


def test_the_weight_is_that_of_the_stage():
    change = torch.zeros(4, 3)
    change[2] = 1
    (_, without), (off, weighted) = missed(change, distilling=0.0), missed(change)
    assert weighted - without == pytest.approx(2 * off, rel=1e-5)


def test_random_weights_are_nothing_to_stay_near():
    change = torch.zeros(4, 3)
    change[2] = 1
    (off, alone), (_, without) = missed(change, taught=False), missed(change, distilling=0.0)
    assert off == 0 and alone == without
