"""Greedy facility location on a line, where its choice is seen at once."""

import pytest
import torch

from aot.ops import facility_location


def grouped(points):
    """Costs |a - b| of points on a line, as one problem."""
    points = torch.tensor(points)
    return (points[:, None] - points).abs()[None]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_facility_location_takes_one_token_of_each_group(stride):
    cost = grouped([0.0, 0.01, 0.02, 1.0, 1.01, 1.02])
    none, ones = torch.zeros(1, 6, dtype=torch.bool), torch.ones(1, 6)
    settings = {"max_steps": 2, "max_cost": 2.0, "stride": stride}
    chosen = facility_location(cost, ones, none, ~none, torch.tensor([2]), **settings)
    assert int(chosen[0, :3].sum()) == 1 and int(chosen[0, 3:].sum()) == 1
    # what is kept already is not bought twice, and what may not be chosen is not
    taken = none.index_fill(1, torch.tensor([1]), True)
    free = (~none).index_fill(1, torch.tensor([4, 5]), False)
    assert not (facility_location(cost, ones, taken, free, torch.tensor([3]), **settings) & (taken | ~free)).any()
    if stride == 1:
        assert facility_location(cost, ones, taken, free, torch.tensor([1]), **settings).nonzero().tolist() == [[0, 3]]


def test_facility_location_by_hand():
    """Weights 1, 1, 4 at 0, 1, 3, nothing kept, at most 5 a token: 5·6 less what each first token leaves."""
    cost, weight = grouped([0.0, 1.0, 3.0]), torch.tensor([[1.0, 1.0, 4.0]])
    none = torch.zeros(1, 3, dtype=torch.bool)
    for count, expected in ((1, [2]), (2, [0, 2]), (3, [0, 1, 2])):  # left: 13, 9, 5; then 1 with either, lower first
        chosen = facility_location(cost, weight, none, ~none, torch.tensor([count]), max_steps=count, max_cost=5.0)
        assert chosen[0].nonzero().flatten().tolist() == expected


def test_facility_location_meets_its_count_when_a_turn_finds_nothing_free():
    """Every other token may be chosen alone, so half of the turns pass; the largest weights fill up."""
    none = torch.zeros(2, 8, dtype=torch.bool)
    free = (torch.arange(8) % 2 == 0).expand(2, -1)
    weight = torch.arange(8.0).expand(2, -1)
    count, settings = torch.tensor([4, 2]), {"max_steps": 4, "max_cost": 2.0, "stride": 2}
    chosen = facility_location(torch.zeros(2, 8, 8), weight, none, free, count, **settings)
    assert chosen.sum(1).tolist() == [4, 2] and not (chosen & ~free).any()


def test_a_step_that_may_choose_none_of_its_tokens_explains_nothing():
    """Of two places, four tokens at one and three at the other, the fuller is chosen first, though by the second step:
    the first looks at even tokens alone, of which none is free. The place left open goes to the largest weight.
    """
    place = torch.tensor([0.0, 0, 1, 1, 0, 1, 0])
    cost = (place[:, None] - place).abs().unsqueeze(0)
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.1, 1.0, 1.2, 1.0]])
    free = torch.tensor([[False, True, False, True, False, True, False]])
    chosen = facility_location(cost, weight, None, free, torch.tensor([2]), max_steps=2, max_cost=2.0, stride=2)
    assert chosen[0].nonzero().flatten().tolist() == [1, 5]


def test_what_is_no_number_is_passed_over_and_what_gains_without_end_is_chosen():
    cost = grouped([0.0, 0.1, 0.2, 1.0, 1.1])
    none = torch.zeros(1, 5, dtype=torch.bool)
    settings = {"max_steps": 2, "max_cost": 2.0}
    plain = facility_location(cost, torch.ones(1, 5), none, ~none, torch.tensor([2]), **settings)
    assert plain[0].nonzero().flatten().tolist() == [2, 3]
    spoilt = cost.clone()
    spoilt[:, 2] = torch.nan
    chosen = facility_location(spoilt, torch.ones(1, 5), none, ~none, torch.tensor([2]), **settings)
    assert int(chosen.sum()) == 2 and not chosen[0, 2]
    spoilt[:, 2], spoilt[:, 4] = cost[:, 2], -torch.inf
    assert facility_location(spoilt, torch.ones(1, 5), none, ~none, torch.tensor([1]), **settings)[0, 4]
