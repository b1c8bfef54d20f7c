"""The closed form of the plan."""

import torch

from aot.ops import softmax_plan


def test_by_hand():
    """A source spreads its mass by e^(-cost/ε); what would be a denormal is nothing, since it slows products down."""
    cost = torch.tensor([[[0.0, 0.1, 0.9], [0.3, 0.2, 0.0]]])
    anchor, valid = torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, True]])
    plan = softmax_plan(cost, anchor, valid, torch.tensor([[1.0, 2.0]]), epsilon=0.01, backend="reference")
    small = torch.tensor(-10.0).exp()  # 0.1/0.01; e^-90 is below 1e-38
    torch.testing.assert_close(plan[0, 0], torch.stack([1 / (1 + small), small / (1 + small), torch.tensor(0.0)]))
    assert float(plan[0, 0, 2]) == 0 and float(plan[0, 1].sum()) == 2
    tiny = torch.finfo(torch.float32).tiny
    assert not bool(((plan > 0) & (plan < tiny)).any())
