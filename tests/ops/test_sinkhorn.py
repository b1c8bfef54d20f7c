"""Entropic plans: their marginals, POT, batches and stopping rules."""

import numpy as np
import ot
import pytest
import torch

from aot import AOTError
from aot.ops import sinkhorn


def problem(batch=3, suppliers=40, anchors=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cost = 1.5 * torch.rand(batch, suppliers, anchors, generator=generator)
    supply = 0.2 + torch.rand(batch, suppliers, generator=generator)
    demand = 0.2 + torch.rand(batch, anchors, generator=generator)
    return cost, supply, demand * (supply.sum(1) / demand.sum(1)).unsqueeze(1)


@pytest.mark.parametrize("log_domain", [False, True])
@pytest.mark.parametrize("stop", ["marginal", "never"])
def test_plans_meet_their_marginals(stop, log_domain):
    cost, supply, demand = problem()
    plan = sinkhorn(cost, supply, demand, epsilon=0.1, iterations=300, stop=stop, tolerance=5e-4, log_domain=log_domain)
    torch.testing.assert_close(plan.sum(2), supply, rtol=1e-3, atol=0)
    torch.testing.assert_close(plan.sum(1), demand, rtol=1e-3, atol=0)


@pytest.mark.parametrize("log_domain", [False, True])
@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5])
def test_plans_agree_with_pot(epsilon, log_domain):
    cost, supply, demand = problem(seed=1)
    plan = sinkhorn(cost, supply, demand, epsilon=epsilon, iterations=3000, stop="never", log_domain=log_domain)
    for i in range(len(cost)):
        a, b = supply[i].double().numpy(), demand[i].double().numpy()
        expected = ot.sinkhorn(
            a, b * a.sum() / b.sum(), cost[i].double().numpy(), epsilon, "sinkhorn_log", 10000, 1e-10
        )
        np.testing.assert_allclose(plan[i].numpy(), expected, rtol=1e-3, atol=1e-6)


def test_a_wrong_epsilon_is_told_from_the_right_one():
    cost, supply, demand = problem(seed=1)
    plans = [sinkhorn(cost, supply, demand, epsilon=e, iterations=500, stop="never") for e in (0.1, 0.101)]
    assert (plans[0] - plans[1]).abs().max() > 1e-3 * plans[0].max()


def test_log_domain_survives_costs_of_hundreds_of_epsilon():
    cost, supply, demand = problem()
    plan = sinkhorn(cost, supply, demand, epsilon=0.004, iterations=3000, stop="never", log_domain=True)
    assert plan.isfinite().all()
    torch.testing.assert_close(plan.sum(1), demand, rtol=1e-3, atol=0)
    entropic = (plan * cost).sum((1, 2))
    for i in range(len(cost)):
        a, b = supply[i].double().numpy(), demand[i].double().numpy()
        least = ot.emd2(a, b * a.sum() / b.sum(), cost[i].double().numpy())
        assert least * 0.99 <= entropic[i] <= least * 1.05


@pytest.mark.parametrize("stop", ["marginal", "change", "never"])
def test_batch_equals_single(stop):
    cost, supply, demand = problem(batch=4)
    cost[1] *= 0.05  # this one converges at once, the others go on
    settings = {"epsilon": 0.1, "iterations": 60, "stop": stop}
    together = sinkhorn(cost, supply, demand, **settings)
    for i in range(4):
        alone = sinkhorn(cost[i : i + 1], supply[i : i + 1], demand[i : i + 1], **settings)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-5, atol=1e-9)


def test_the_released_stop_rule_couples_the_batch():
    cost, supply, demand = problem(batch=2)
    supply, demand = (x / x.sum(1, keepdim=True) for x in (supply, demand))
    cost[1] *= 0.01
    settings = {"epsilon": 0.02, "iterations": 60, "stop": "change_batch", "tolerance": 1e-2}
    together = sinkhorn(cost, supply, demand, **settings)
    alone = sinkhorn(cost[1:], supply[1:], demand[1:], **settings)
    assert not torch.equal(together[1], alone[0])


@pytest.mark.parametrize("log_domain", [False, True])
def test_padding_gets_no_mass_and_changes_nothing(log_domain):
    cost, supply, demand = problem(batch=1)
    padded = torch.full((1, 45, 9), 0.3)
    padded[:, :40, :7] = cost
    zeros = torch.zeros(1, 9)
    plan = sinkhorn(
        padded,
        torch.cat([supply, zeros[:, :5]], 1),
        torch.cat([demand, zeros[:, :2]], 1),
        epsilon=0.1,
        log_domain=log_domain,
    )
    assert plan[:, 40:].abs().max() == 0 and plan[:, :, 7:].abs().max() == 0
    expected = sinkhorn(cost, supply, demand, epsilon=0.1, log_domain=log_domain)
    torch.testing.assert_close(plan[:, :40, :7], expected, rtol=5e-3, atol=1e-6)


def test_permuting_suppliers_permutes_the_plan():
    cost, supply, demand = problem()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    plan = sinkhorn(cost, supply, demand, epsilon=0.1)
    moved = sinkhorn(cost[:, order], supply[:, order], demand, epsilon=0.1)
    torch.testing.assert_close(moved, plan[:, order], rtol=1e-4, atol=1e-8)


def test_no_mass_gives_an_empty_finite_plan():
    plan = sinkhorn(torch.rand(1, 4, 3), torch.zeros(1, 4), torch.zeros(1, 3), epsilon=0.1)
    assert torch.equal(plan, torch.zeros(1, 4, 3))


@pytest.mark.parametrize("log_domain", [False, True])
def test_a_problem_that_is_solved_from_the_start_gives_padding_no_mass(log_domain):
    """One anchor at no cost: the first look finds every row right, and nothing is scaled."""
    supply, demand = torch.tensor([[1.0, 1, 1, 0, 0]]), torch.tensor([[3.0, 0]])
    cost = torch.tensor([[[0.0, 9]]]).expand(1, 5, 2)
    plan = sinkhorn(cost, supply, demand, epsilon=0.1, log_domain=log_domain)
    assert plan.tolist() == [[[1, 0], [1, 0], [1, 0], [0, 0], [0, 0]]]


def test_an_anchor_that_nothing_reaches_gets_nothing():
    """On unshifted scalings a cost of 10,000 ε is a kernel of 0."""
    cost, ones = torch.tensor([[[0.0, 1000.0]] * 3]), torch.ones(1, 3)
    plan = sinkhorn(cost, ones, torch.tensor([[2.0, 1.0]]), epsilon=0.1, stop="change")
    assert plan.isfinite().all() and not plan[..., 1].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sinkhorn(torch.rand(1, 2, 3), torch.rand(1, 3), torch.rand(1, 2), epsilon=0.1), "must be"),
        (lambda: sinkhorn(torch.rand(1, 3), torch.rand(1, 3), torch.rand(1, 2), epsilon=0.1), "must be"),
        (lambda: sinkhorn(*problem(), epsilon=0.1, stop="soon"), "stopping rule"),
        (lambda: sinkhorn(*problem(), epsilon=0.1, stop="change", log_domain=True), "log_domain"),
        (lambda: sinkhorn(*problem(), epsilon=0.1, backend="triton"), "triton"),
    ],
)
def test_bad_calls_name_the_trouble(call, message):
    with pytest.raises(AOTError, match=message):
        call()
