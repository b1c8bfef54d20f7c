"""The operations to measure: inputs of a size, and the formula that they compute, in plain PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

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

# frames, pooled grid, width, tower tokens, heads, head width, clips
SIZES = {
    "small": {"frames": 8, "grid": (6, 6), "width": 192, "tokens": 144, "heads": 3, "head": 64, "clips": 2},
    "7b": {"frames": 32, "grid": (14, 14), "width": 3584, "tokens": 729, "heads": 16, "head": 72, "clips": 8},
}
HIGHEST = 3.0  # of a cost, more than any here


@dataclass
class Case:
    """One operation on several sets of inputs, so that repeated runs do not measure the cache.

    run(*inputs, backend=name) -> result. formula(*inputs): what one would write without thinking of precision, in the
    type of the inputs; in float64 it is exact. bytes, flop: the least it needs. score(result, *inputs): what is
    compared with the formula, the result itself unless given. limit: of the relative error; None for that of the type.
    """

    name: str
    inputs: list[tuple[torch.Tensor, ...]]
    run: Callable
    formula: Callable
    bytes: int
    flop: int
    score: Callable = lambda result, *inputs: result
    limit: float | None = None


def make_cases(size: dict, device: torch.device, dtype: torch.dtype, sets: int) -> list[Case]:
    """Every operation at a size of `SIZES`."""

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    video = (size["frames"], size["grid"][0] * size["grid"][1], size["width"])
    tokens = [(randn(1, *video[1:]) + 0.5 * randn(*video),) for _ in range(sets)]
    heads = (size["frames"], size["heads"], size["tokens"], size["head"])
    queries = [(randn(*heads), randn(*heads)) for _ in range(sets)]
    scale = size["head"] ** -0.5
    attention = Case(
        "received_attention",
        queries,
        partial(received_attention, scale=scale),
        lambda q, k: (q @ k.mT * scale).softmax(-1).sum(2).mean(1),
        sum(x.nbytes for x in queries[0]),
        4 * size["frames"] * size["heads"] * size["tokens"] ** 2 * size["head"],
    )
    return [
        attention,
        *token_cases(size, tokens),
        *choice_cases(size, tokens),
        *sinkhorn_cases(size, device, sets),
        clips_case(size, device, sets),
    ]


def token_cases(size: dict, inputs: list[tuple[torch.Tensor]]) -> list[Case]:
    """What reads the tokens (T, P, D): costs, sums, change in time."""
    device, (frames, per_frame, width) = inputs[0][0].device, inputs[0][0].shape
    clips, length = size["clips"], frames // size["clips"]
    suppliers, kept = length * per_frame, max(2, length * per_frame // 10)
    starts = torch.arange(0, frames, length, device=device)
    anchor = torch.stack([torch.randperm(suppliers, device=device)[:kept].sort().values for _ in range(clips)])
    anchor += starts[:, None] * per_frame
    everything = torch.arange(clips * suppliers, device=device).view(clips, -1)
    plan = torch.rand(clips, suppliers, kept, device=device)

    def unit(x: torch.Tensor) -> torch.Tensor:
        return x / x.norm(dim=2, keepdim=True)

    def cosine_cost(x: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return 1 - unit(x).reshape(clips, -1, width) @ unit(x).flatten(0, 1)[columns].mT

    def change(x: torch.Tensor) -> torch.Tensor:
        units = unit(x)
        before = torch.cat([unit(units[:1].mean(1, keepdim=True)).expand_as(units[:1]), units[:-1]])
        return 1 - (units * before).sum(2)

    read, product = inputs[0][0].nbytes, 2 * clips * suppliers * width
    # the other terms of the cost are in the kernels' tests
    costs = partial(pair_cost, starts=starts, length=length, grid=size["grid"], spatial_weight=0.0)
    cases = [
        Case(
            name,
            inputs,
            partial(costs, anchor=given),
            partial(cosine_cost, columns=columns),
            read + 4 * clips * suppliers * columns.shape[1],
            product * columns.shape[1],
        )
        for name, given, columns in (("pair_cost", anchor, anchor), ("pair_cost, all pairs", None, everything))
    ]
    return [
        *cases,
        Case(
            "aggregate",
            inputs,
            lambda x, backend: aggregate(plan, x, starts, length, backend=backend),
            lambda x: plan.to(x.dtype).mT @ x.reshape(clips, suppliers, width),
            read + plan.nbytes + 4 * clips * kept * width,
            product * kept,
        ),
        Case("temporal_change", inputs, temporal_change, change, read, 2 * frames * per_frame * width),
    ]


def choice_cases(size: dict, tokens: list[tuple[torch.Tensor]]) -> list[Case]:
    """What reads the costs of all pairs of a clip: the choice and the closed-form plan; float32 whatever the tokens."""
    device, frames = tokens[0][0].device, len(tokens[0][0])
    length = frames // size["clips"]
    starts = torch.arange(0, frames, length, device=device)
    weights = {"grid": size["grid"], "spatial_weight": 0.25, "temporal_weight": 0.2}
    costs = [(pair_cost(x, starts, length, **weights),) for (x,) in tokens]
    problems, count, _ = costs[0][0].shape
    kept = max(2, count // 10)
    weight = torch.rand(problems, count, device=device)
    free = torch.ones(problems, count, dtype=torch.bool, device=device)
    wanted = torch.full((problems,), kept, device=device)
    settings = {"max_steps": kept, "max_cost": HIGHEST, "stride": 8 if count >= 512 else 1}
    anchor = torch.stack([torch.randperm(count, device=device)[:kept].sort().values for _ in range(problems)])
    filled, supply = torch.ones_like(anchor, dtype=torch.bool), torch.rand(problems, count, device=device)
    columns = anchor[:, None].expand(-1, count, -1)

    def choose(cost: torch.Tensor, backend: str = "reference") -> torch.Tensor:
        return facility_location(cost, weight.to(cost.dtype), None, free, wanted, backend=backend, **settings)

    def left(chosen: torch.Tensor, cost: torch.Tensor) -> torch.Tensor:
        """(B,) what the choice leaves to be transported; of choices equally good none is wrong."""
        nearest = cost.double().masked_fill(~chosen[:, :, None], HIGHEST).amin(1)
        return torch.where(chosen.sum(1) == kept, (nearest * weight).sum(1), torch.nan)

    return [
        Case(
            "facility_location",
            costs,
            choose,
            lambda cost: left(choose(cost), cost),
            kept * costs[0][0].nbytes // settings["stride"],
            kept * 3 * costs[0][0].numel() // settings["stride"],
            score=left,
            limit=1e-3,
        ),
        Case(
            "softmax_plan",
            costs,
            partial(softmax_plan, anchor=anchor, valid=filled, supply=supply, epsilon=0.01),
            lambda cost: (-cost.gather(2, columns) / 0.01).softmax(2) * supply[:, :, None],
            8 * columns.numel(),
            4 * columns.numel(),
            limit=1e-4,
        ),
    ]


def sinkhorn_cases(size: dict, device: torch.device, sets: int) -> list[Case]:
    """Balanced transport in float32, with all iterations and with as many as it takes."""
    rows, columns = size["tokens"], size["tokens"] // 6
    supply = torch.ones(size["frames"], rows, device=device)
    demand = torch.full((size["frames"], columns), rows / columns, device=device)
    inputs = [(torch.rand(size["frames"], rows, columns, device=device), supply, demand) for _ in range(sets)]
    pairs = inputs[0][0].numel()

    def iterate(cost: torch.Tensor, supply: torch.Tensor, demand: torch.Tensor) -> torch.Tensor:
        """The plain iteration, on logarithms."""
        scores, g = -cost / 0.1, (cost - cost.amin(2, keepdim=True)).amin(1) / 0.1
        for _ in range(100):
            f = supply.log() - torch.logsumexp(scores + g[:, None], 2)
            g = demand.log() - torch.logsumexp(scores + f[:, :, None], 1)
        return (f[:, :, None] + scores + g[:, None]).exp()

    return [
        Case(
            "sinkhorn, 100 iterations",
            inputs,
            partial(sinkhorn, epsilon=0.1, stop="never"),
            iterate,
            8 * pairs,
            400 * pairs,
        ),
        Case(
            "sinkhorn, own stop",
            inputs,
            partial(sinkhorn, epsilon=0.1),
            lambda cost, supply, demand: supply,
            8 * pairs,
            4 * pairs,
            score=lambda plan, *inputs: plan.sum(2),
            limit=1e-3,  # the rule is met when its marginals are within the tolerance
        ),
    ]


def clips_case(size: dict, device: torch.device, sets: int) -> Case:
    """The inter-frame step of the paper along all clips."""
    clips, length = size["clips"], size["frames"] // size["clips"]
    ragged = torch.rand(clips, length, min(60, size["grid"][0] * size["grid"][1]), device=device) < 0.7
    inputs = [(torch.randn(*ragged.shape, size["width"], device=device),) for _ in range(sets)]
    rule = {"epsilon": 0.1, "iterations": 100, "stop": "marginal", "tolerance": 1e-3, "temporal_sigma": 1.5}
    rule |= {"keep_ratio": None, "threshold": 0.5, "strength": 1.0, "cap": 1.0}

    def merge(x: torch.Tensor, backend: str = "reference") -> torch.Tensor:
        return merge_clips(x.float(), ragged, ragged.float(), backend=backend, **rule).anchors

    flop = 4 * inputs[0][0].numel() * ragged.shape[2]
    return Case("clips", inputs, merge, merge, inputs[0][0].nbytes, flop)
