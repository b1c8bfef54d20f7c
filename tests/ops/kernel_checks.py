"""Every kernel against float64, on odd shapes; run in triton's interpreter by test_kernels.py.

On a machine with a GPU: python -m pytest tests/ops/kernel_checks.py
"""

from importlib import import_module

import pytest
import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode

from aot import AOTConfig, AOTError, compress, warm_up
from aot.ops import (
    aggregate,
    facility_location,
    merge_clips,
    pair_cost,
    received_attention,
    sinkhorn,
    softmax_plan,
    temporal_change,
)
from aot.ops.common import group_frames

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
# relative error of the whole result that each input type may have; bfloat16 products are wrong in the interpreter
LIMITS = {torch.float32: 2e-5, torch.float16: 2e-3} | ({torch.bfloat16: 1e-2} if DEVICE == "cuda" else {})
TYPES = sorted(LIMITS, key=str)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """What torch.empty gives is NaN, or 99 for integers, so that an unwritten element is seen."""
    empty = torch.empty

    def poisoned(*size, **kwargs):
        made = empty(*size, **kwargs)
        return made.fill_(torch.nan if made.is_floating_point() else 99)

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def randn():
    generator = torch.Generator().manual_seed(0)
    return lambda *size, dtype=torch.float32: torch.randn(*size, generator=generator).to(DEVICE, dtype)


def close(value, expected, dtype=torch.float32):
    expected = expected.double()
    assert value.shape == expected.shape
    assert (value.double() - expected).norm() <= LIMITS[dtype] * expected.norm()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["own sums", "sums given"])
@pytest.mark.parametrize("width", [8, 72])
def test_received_attention(randn, dtype, given, width):
    q, k = (randn(2, 67, 2, width, dtype=dtype).transpose(1, 2) for _ in range(2))
    scores = q.double() @ k.double().mT * width**-0.5
    lse = scores.logsumexp(-1).float() if given else None
    received = received_attention(q, k, width**-0.5, lse=lse, backend="triton")
    close(received, scores.softmax(-1).sum(2).mean(1), dtype)


def problem(randn, columns):
    cost, supply, demand = randn(3, 45, columns).abs(), randn(3, 45).abs() + 0.2, randn(3, columns).abs() + 0.2
    cost[1] *= 0.05  # done at once; the others go on
    supply[:, 40:], demand[:, columns - 2 :], supply[2] = 0, 0, 0
    demand[2] = 0
    return cost.mT.contiguous().mT, supply, demand * (supply.sum(1) / demand.sum(1).clamp_min(1e-9))[:, None]


@pytest.mark.parametrize("stop", ["never", "marginal", "change"])
@pytest.mark.parametrize("log_domain", [False, True])
def test_sinkhorn(randn, stop, log_domain):
    if log_domain and stop == "change":
        pytest.skip("defined on scalings alone")
    cost, supply, demand = problem(randn, 19)
    settings = {"epsilon": 0.1, "iterations": 12, "stop": stop, "tolerance": 0.02, "log_domain": log_domain}
    plan = sinkhorn(cost, supply, demand, backend="triton", **settings)
    expected = sinkhorn(cost, supply, demand, backend="reference", **settings)
    close(plan, expected)
    assert plan[:, 40:].abs().max() == 0 and plan[:, :, 17:].abs().max() == 0


def test_sinkhorn_keeps_columns_beyond_the_range_of_float32(randn):
    cost, supply, demand = torch.zeros(1, 8, 4, device=DEVICE), torch.ones(1, 8), torch.full((1, 4), 2.0)
    cost[0, :, 3] = 60  # e^-600
    plan = sinkhorn(cost, supply.to(DEVICE), demand.to(DEVICE), epsilon=0.1, log_domain=True, backend="triton")
    close(plan.sum(1), demand.to(DEVICE))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_pair_cost_and_aggregate(randn, dtype):
    tokens = randn(5, 24, 80, dtype=dtype)[:, ::2, ::2]
    tokens[1, 3] = 0
    starts = torch.tensor([0, 2, 4], device=DEVICE)  # the last group reaches beyond the video
    anchor = torch.tensor([[0, 5, 13, 23], [24, 30, 47, 47], [48, 50, 59, 59]], device=DEVICE)
    settings = {"grid": (3, 4), "spatial_weight": 0.5, "temporal_weight": 0.3}
    wide = group_frames(tokens, starts, 2).double()
    expected = all_costs(wide, (3, 4), 0.5, 0.3)
    close(pair_cost(tokens, starts, 2, backend="triton", **settings), expected, dtype)
    cost = pair_cost(tokens, starts, 2, anchor, backend="triton", **settings)
    columns = anchor - 12 * starts[:, None]
    close(cost, expected.gather(2, columns[:, None].expand(-1, 24, -1)), dtype)
    plan = (-cost / 0.1).softmax(-1)
    close(aggregate(plan, tokens, starts, 2, backend="triton"), plan.double().mT @ wide, dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_pair_cost_of_all_pairs_fills_both_halves(randn, dtype):
    """More tokens than a tile holds: what is above the diagonal is computed and stands below it as well."""
    tokens, starts = randn(4, 70, 40, dtype=dtype), torch.tensor([0, 2], device=DEVICE)
    settings = {"grid": (7, 10), "spatial_weight": 0.5, "temporal_weight": 0.3}
    cost = pair_cost(tokens, starts, 2, backend="triton", **settings)
    close(cost, all_costs(tokens.double().view(2, 140, 40), (7, 10), 0.5, 0.3), dtype)
    side = 64 if dtype == torch.float32 else 128  # of a tile
    assert torch.equal(cost[:, :side, side:], cost[:, side:, :side].mT)


def all_costs(tokens, grid, spatial, temporal):
    """(G, M, M) float64 costs of groups (G, M, D) of whole frames, by the words of docs/method.md."""
    unit = tokens / tokens.norm(dim=2, keepdim=True).clamp_min(1e-30)
    number = torch.arange(tokens.shape[1], device=DEVICE)
    frame, place = number // (grid[0] * grid[1]), number % (grid[0] * grid[1])
    row, column = (place // grid[1]).double() / (grid[0] - 1), (place % grid[1]).double() / (grid[1] - 1)
    apart = ((row[:, None] - row) ** 2 + (column[:, None] - column) ** 2).sqrt()
    return 1 - unit @ unit.mT + spatial * apart + temporal * (frame[:, None] - frame).abs()


def greedy(cost, weight, selected, candidates, count, stride, max_cost):
    """The choice of one problem in float64, one token after another, without any batching."""
    best_cost = torch.where(selected[:, None], cost, max_cost).amin(0)
    still_free, chosen = candidates & ~selected, []
    for step in range(count):
        looked = [j for j in range(step % stride, len(best_cost), stride) if still_free[j]]
        if looked:
            # where nothing is left to gain, the largest weight decides
            best = max(
                looked, key=lambda j: float(((best_cost - cost[j]).clamp_min(0) * weight).sum() + 1e-12 * weight[j])
            )
            best_cost, still_free[best] = torch.minimum(best_cost, cost[best]), False
            chosen.append(best)
    rest = sorted((j for j in range(len(best_cost)) if still_free[j]), key=lambda j: -float(weight[j]))
    return sorted(chosen + rest[: count - len(chosen)])


@pytest.mark.parametrize("tokens", [9, 45, 530], ids=lambda n: f"{n} tokens")  # the last takes several looks a step
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("some", [True, False], ids=["some kept", "nothing kept"])
def test_facility_location(randn, tokens, stride, some):
    points = randn(3, tokens, 5).double()
    cost, weight = torch.cdist(points, points), randn(3, tokens).double().abs() + 0.1
    taken, free = (randn(3, tokens) > 1.2) & some, randn(3, tokens) > -1
    taken[1], free[2] = False, torch.arange(tokens, device=DEVICE) % 3 == 1  # two turns of three find nothing
    count = torch.tensor([6, 1, 4], device=DEVICE).minimum((free & ~taken).sum(1))
    wide = torch.cat([cost.float(), cost.float()], 2)[:, :, :tokens]  # rows that do not follow each other
    settings = {"max_steps": 6, "max_cost": 2.5, "stride": stride}
    given = (weight.float(), taken if some else None, free, count)
    chosen = facility_location(wide, *given, backend="triton", **settings)
    for problem in range(3):
        arguments = (cost[problem], weight[problem], taken[problem], free[problem])
        expected = greedy(*arguments, int(count[problem]), stride, 2.5)
        assert chosen[problem].nonzero().flatten().tolist() == expected
    assert torch.equal(chosen, facility_location(cost.float(), *given, backend="reference", **settings))


@pytest.mark.parametrize("anchors", [1, 19, 300])
def test_softmax_plan(randn, anchors):
    cost, supply = randn(2, 37, 311).abs(), randn(2, 37).abs()
    cost[0, :, 7] = 30  # e^-3000 against the others
    anchor = torch.stack([torch.randperm(311, generator=torch.Generator().manual_seed(i))[:anchors] for i in (1, 2)])
    anchor, filled = anchor.to(DEVICE), torch.ones(2, anchors, dtype=torch.bool, device=DEVICE)
    filled[1, anchors // 2 + 1 :], supply[0, :5] = False, 0
    plan = softmax_plan(cost, anchor, filled, supply, epsilon=0.01, backend="triton")
    logits = -cost.double().gather(2, anchor[:, None].expand(-1, 37, -1)) / 0.01
    expected = logits.masked_fill(~filled[:, None], -torch.inf).softmax(2) * supply[:, :, None]
    close(plan, expected)
    close(softmax_plan(cost, anchor, filled, supply, epsilon=0.01, backend="reference"), expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_temporal_change(randn, dtype):
    tokens = (randn(1, 19, 300) + 0.3 * randn(3, 19, 300)).to(dtype)
    tokens[1, 4] = 0
    unit = tokens.double() / tokens.double().norm(dim=2, keepdim=True).clamp_min(1e-30)
    mean = unit.mean(1, keepdim=True)
    new = temporal_change(tokens.transpose(0, 1).contiguous().transpose(0, 1), backend="triton")
    close(new[1:], 1 - (unit[1:] * unit[:-1]).sum(2))
    close(new[:1], 1 - (unit[:1] * mean[:1] / mean[:1].norm(dim=2, keepdim=True)).sum(2))
    close(temporal_change(tokens[1:], tokens[:1], backend="triton"), 1 - (unit[1:] * unit[:-1]).sum(2))


HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter's bfloat16 products are wrong


def test_half_precision_is_within_twice_the_error_of_plain_pytorch(randn):
    """Plain: the same formula, every step in the inputs' own type."""
    q, k = randn(2, 3, 65, 72, dtype=HALF), randn(2, 3, 65, 72, dtype=HALF)
    tokens = (randn(1, 24, 200) + 0.3 * randn(4, 24, 200)).to(HALF)
    starts = torch.tensor([0, 2], device=DEVICE)
    plan = randn(2, 48, 7).abs()

    def attention(q, k):
        return (q @ k.mT * 72**-0.5).softmax(-1).sum(2).mean(1)

    def cost(x):
        unit = x / x.norm(dim=2, keepdim=True)
        return 1 - unit.view(2, 48, -1) @ unit.view(2, 48, -1).mT

    def carried(plan, x):
        return plan.mT @ x.view(2, 48, -1)

    def change(x):
        unit = x / x.norm(dim=2, keepdim=True)
        return 1 - (unit[1:] * unit[:-1]).sum(2)

    settings = {"grid": (4, 6), "spatial_weight": 0.0, "backend": "triton"}
    found = {
        "received_attention": (received_attention(q, k, 72**-0.5, backend="triton"), attention, (q, k)),
        "pair_cost": (pair_cost(tokens, starts, 2, **settings), cost, (tokens,)),
        "aggregate": (aggregate(plan, tokens, starts, 2, backend="triton"), carried, (plan, tokens)),
        "temporal_change": (temporal_change(tokens, backend="triton")[1:], change, (tokens,)),
    }
    for name, (ours, formula, inputs) in found.items():
        exact = formula(*(x.double() for x in inputs))
        plain = formula(*(x.to(HALF) for x in inputs)).double()
        assert (ours.double() - exact).norm() <= 2 * (plain - exact).norm(), name


RULES = {
    "released": {"stop": "change", "tolerance": 1e-2, "keep_ratio": 0.3},
    "paper": {"stop": "never", "iterations": 10, "keep_ratio": None},
    "each its own stop": {"stop": "marginal", "keep_ratio": None},
}
RULES = {
    name: {"epsilon": 0.1, "iterations": 100, "tolerance": 1e-3, "temporal_sigma": 1.5, "threshold": 0.5}
    | {"strength": 1.0, "cap": 1.0}
    | rule
    for name, rule in RULES.items()
}


@pytest.mark.parametrize("rule", RULES)
def test_inter_frame_merge_of_ragged_clips(randn, rule):
    tokens = randn(3, 1, 9, 40) + 0.7 * randn(3, 4, 9, 40)
    present = torch.rand(3, 4, 9, generator=torch.Generator().manual_seed(1)) < 0.8
    present[1, 2:], present[2, 0] = False, False  # a short clip, and one without anchors
    present, mass = present.to(DEVICE), randn(3, 4, 9).abs()
    ours = merge_clips(tokens, present, mass, backend="triton", **RULES[rule])
    expected = merge_clips(tokens, present, mass, backend="reference", **RULES[rule])
    assert torch.equal(ours.dynamic, expected.dynamic) and bool(ours.dynamic[2].any())
    close(ours.anchors, expected.anchors)
    close(ours.mass, expected.mass)
    for plan, wanted in zip(ours.plans, expected.plans, strict=True):
        close(plan, wanted)


class CountOperations(TorchDispatchMode):
    """Counts what torch runs beside the kernels: views and empty tensors cost a GPU nothing."""

    FREE = ("view", "slice", "select", "expand", "permute", "transpose", "squeeze", "alias", "detach", "unbind")
    FREE += ("empty", "set_", "copy_") if DEVICE == "cpu" else ("empty",)  # the interpreter copies

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if not any(free in name for free in self.FREE):
            self.operations.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def video(randn):
    """Features, importance maps and newline of 6 frames: clips of four and of two."""
    features = randn(1, 144, 40) + 0.6 * randn(6, 144, 40)
    return features, randn(6, 144).abs(), randn(6, 144).abs(), randn(40)


@pytest.mark.parametrize("retention", [0.1, 0.4])
def test_the_default_on_kernels_equals_the_reference(video, retention, monkeypatch):
    *inputs, newline = video
    config = AOTConfig(retention=retention, backend="triton")
    ours = compress(*inputs, config, newline=newline)
    expected = compress(*inputs, config.replace(backend="reference"), newline=newline)
    for name in ("frame", "position", "kind"):
        assert torch.equal(getattr(ours, name), getattr(expected, name))
    close(ours.tokens, expected.tokens)
    close(ours.mass, expected.mass)
    # the number of steps of the choice does not show: a video of a shape seen before takes about 80 operations
    monkeypatch.undo()  # poisoning memory is an operation
    monkeypatch.setattr("aot.validation.HOST_DEVICES", ())  # as on a GPU
    with CountOperations() as counter:
        compress(*inputs, config, newline=newline)
    assert len(counter.operations) <= 90, (len(counter.operations), counter.operations)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_the_default_never_waits_for_the_device_and_can_be_recorded(video, monkeypatch):
    monkeypatch.undo()  # poisoned memory would be written to while recording
    *inputs, newline = video
    expected = compress(*inputs, AOTConfig(), newline=newline)
    torch.cuda.set_sync_debug_mode("error")
    try:
        compress(*inputs, AOTConfig(), newline=newline)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = compress(*inputs, AOTConfig(), newline=newline)
    inputs[0].mul_(1.5)
    graph.replay()
    close(recorded.tokens, compress(*inputs, AOTConfig(), newline=newline).tokens)
    assert not torch.equal(recorded.tokens, expected.tokens)


def test_what_a_kernel_cannot_do_is_said():
    cost, supply, demand = torch.ones(1, 4, 3), torch.ones(1, 4), torch.ones(1, 3)
    cost, supply, demand = cost.to(DEVICE), supply.to(DEVICE), demand.to(DEVICE)
    with pytest.raises(AOTError, match="couples"):
        sinkhorn(cost, supply, demand, epsilon=0.1, stop="change_batch", backend="triton")
    with pytest.raises(AOTError, match="2048"):
        sinkhorn(cost.repeat(1, 1, 683), supply, demand.repeat(1, 683), epsilon=0.1, backend="triton")
    large, none = torch.zeros(1, 4097, 4097, device=DEVICE), torch.zeros(1, 4097, dtype=torch.bool, device=DEVICE)
    with pytest.raises(AOTError, match="4096"):
        facility_location(large, none.float(), None, ~none, none.sum(1), max_steps=1, max_cost=2.0, backend="triton")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0, 0.0])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_facility_location_keeps_as_many_as_asked_whatever_the_numbers(randn, backend, value):
    points = randn(2, 45, 5)
    cost, weight = torch.cdist(points, points), randn(2, 45).abs()
    free = torch.arange(45, device=DEVICE).expand(2, -1) % 4 > 0
    count, settings = torch.tensor([7, 30], device=DEVICE), {"max_steps": 30, "max_cost": 2.0, "backend": backend}
    weight[:, 3:20] = value
    chosen = facility_location(cost, weight, None, free, count, **settings)
    assert torch.equal(chosen.sum(1), count) and not bool((chosen & ~free).any())
    cost[0, 5], cost[0, :, 5], cost[1] = torch.nan, torch.nan, torch.nan
    chosen = facility_location(cost, torch.full_like(weight, value), None, free, count, **settings)
    assert torch.equal(chosen.sum(1), count) and not bool((chosen & ~free).any())


class Launches:
    """Stands for a kernel and runs nothing: keeps the grids, and what Triton would compile anew for."""

    def __init__(self, kernel, found):
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid):
        def launch(*values, **named):
            loose = self.kernel.kwargs["do_not_specialize"] or ()
            key = [self.kernel.fn.__name__]
            for name, value in {**dict(zip(self.kernel.arg_names, values, strict=False)), **named}.items():
                if isinstance(value, torch.Tensor):
                    value = value.dtype
                elif isinstance(value, float) or name in loose:
                    value = type(value)
                elif isinstance(value, int) and name in self.kernel.arg_names and name.islower():
                    value = (value == 1, value % 16 == 0)
                key.append((name, value))
            self.found.add((tuple(key), len(grid)))

        return launch


@pytest.fixture
def launches(monkeypatch):
    if DEVICE == "cuda":
        pytest.skip("looks at the interpreter's kernels")
    names = ("aggregate", "facility_location", "inter_frame", "pair_cost", "received_attention", "sinkhorn")
    modules = [import_module(f"aot.ops.triton.{name}") for name in (*names, "softmax_plan", "temporal_change")]
    found = set()
    for module in modules:
        for name in vars(module).copy():
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, Launches(getattr(module, name), found))
    monkeypatch.setattr(torch, "empty", lambda *size, **kwargs: torch.zeros(*size, **kwargs))
    return found


@pytest.mark.parametrize("pool", [None, "bilinear"])
@pytest.mark.parametrize("settings", [{}, {"clip_length": 3}, {"clips": "dynamic", "clip_cuts": 3}], ids=str)
def test_nothing_is_compiled_after_the_warm_up(launches, pool, settings):
    config = AOTConfig(backend="triton", **settings)
    arguments = {"pool": pool, "grid": (11, 12)}
    warm_up(config, width=16, dtype=torch.float16, device=torch.device(DEVICE), **arguments)
    warm = launches.copy()
    launches.clear()
    for frames in (1, 2, 3, 4, 5, 7, 8, 13, 16):
        features, maps = torch.ones(frames, 132, 16).half(), torch.ones(2, frames, 132)
        for retention in (0.03, 0.05, 0.1, 0.123, 0.25, 0.37, 0.5, 0.75, 0.97):
            compress(features, *maps, config.replace(retention=retention), **arguments)
            compress(features, *maps, config.replace(retention=retention), before=features[:1], **arguments)
    assert launches and launches <= warm, launches - warm


def test_the_grid_of_every_kernel_has_room_for_any_number_of_programs(launches, randn):
    """Only the first axis of a grid may hold more than 65,535 programs."""
    tokens, starts, anchor = randn(5, 12, 16), torch.arange(5), torch.arange(60).view(5, 12)
    cost, mask, ones = torch.ones(5, 12, 12), torch.ones(5, 12, dtype=torch.bool), torch.ones(5, 12)
    on = {"backend": "triton"}
    received_attention(randn(2, 3, 9, 16), randn(2, 3, 9, 16), 0.1, **on)
    sinkhorn(cost, ones, ones, epsilon=0.1, **on)
    pair_cost(tokens, starts, 1, anchor, grid=(3, 4), spatial_weight=0.1, **on)
    facility_location(cost, ones, None, mask, starts, max_steps=1, max_cost=2.0, **on)
    softmax_plan(cost, anchor % 12, mask, ones, epsilon=0.1, **on)
    aggregate(cost, tokens, starts, 1, **on)
    temporal_change(tokens, **on)
    merge_clips(tokens[None], mask[None], ones[None], **RULES["paper"], **on)
    assert len({key[0] for key, _ in launches}) == 11 and {axes for _, axes in launches} == {1}
