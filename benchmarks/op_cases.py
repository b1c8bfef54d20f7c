"""The operations to measure: inputs of a size, the result in float64, and a plain version in the inputs' own type."""

from collections.abc import Callable
from dataclasses import dataclass

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

    run(inputs, backend) -> result. exact(inputs) -> float64 tensor. bytes, flop: the least it needs. plain(inputs):
    what one would write in the inputs' type without thinking of precision. score(inputs, result): what is compared,
    the result itself unless given. limit: of the relative error; None for that of the type.
    """

    name: str
    inputs: list
    run: Callable
    exact: Callable
    bytes: int
    flop: int
    plain: Callable | None = None
    score: Callable = lambda inputs, result: result
    limit: float | None = None


def make_cases(size: dict, device: torch.device, dtype: torch.dtype, sets: int) -> list[Case]:
    """Every operation at a size of `SIZES`."""

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    video = (size["frames"], size["grid"][0] * size["grid"][1], size["width"])
    tokens = [randn(1, *video[1:]) + 0.5 * randn(*video) for _ in range(sets)]
    heads = (size["frames"], size["heads"], size["tokens"], size["head"])
    queries = [(randn(*heads), randn(*heads)) for _ in range(sets)]
    return [
        attention_case(size, queries),
        *token_cases(size, tokens),
        *choice_cases(size, tokens),
        *sinkhorn_cases(size, device, sets),
        clips_case(size, device, sets),
    ]


def attention_case(size: dict, inputs: list) -> Case:
    scale = size["head"] ** -0.5

    def exact(x: tuple) -> torch.Tensor:  # frame by frame: in float64 the maps of all frames are too large
        maps = ((a.double() @ b.double().mT * scale).softmax(-1) for a, b in zip(*x, strict=True))
        return torch.stack([frame.sum(1).mean(0) for frame in maps])

    return Case(
        "received_attention",
        inputs,
        lambda x, backend: received_attention(*x, scale, backend=backend),
        exact,
        sum(x.nbytes for x in inputs[0]),
        4 * size["frames"] * size["heads"] * size["tokens"] ** 2 * size["head"],
        plain=lambda x: (x[0] @ x[1].mT * scale).softmax(-1).sum(2).mean(1),
    )


def token_cases(size: dict, inputs: list) -> list[Case]:
    """What reads the tokens (T, P, D): costs, sums, change in time."""
    device, (frames, per_frame, width) = inputs[0].device, inputs[0].shape
    clips, length = size["clips"], frames // size["clips"]
    suppliers, kept = length * per_frame, max(2, length * per_frame // 10)
    starts = torch.arange(0, frames, length, device=device)
    anchor = torch.stack([torch.randperm(suppliers, device=device)[:kept].sort().values for _ in range(clips)])
    anchor += starts[:, None] * per_frame
    plan = torch.rand(clips, suppliers, kept, device=device)
    settings = {"grid": size["grid"], "spatial_weight": 0.0}  # the other terms are in the kernels' tests

    def unit(x: torch.Tensor) -> torch.Tensor:
        return x / x.norm(dim=2, keepdim=True)

    def cosine_cost(x: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return 1 - unit(x).reshape(clips, -1, width) @ unit(x).flatten(0, 1)[columns].mT

    def plain_change(x: torch.Tensor) -> torch.Tensor:
        units = unit(x)
        before = torch.cat([unit(units[:1].mean(1, keepdim=True)).expand_as(units[:1]), units[:-1]])
        return 1 - (units * before).sum(2)

    everything = torch.arange(clips * suppliers, device=device).view(clips, -1)
    read, product = inputs[0].nbytes, 2 * clips * suppliers * width
    cases = []
    for name, given, columns in (("pair_cost", anchor, anchor), ("pair_cost, all pairs", None, everything)):
        count = columns.shape[1]
        cases.append(
            Case(
                name,
                inputs,
                lambda x, backend, given=given: pair_cost(x, starts, length, given, backend=backend, **settings),
                lambda x, columns=columns: cosine_cost(x.double(), columns),
                read + 4 * clips * suppliers * count,
                product * count,
                plain=lambda x, columns=columns: cosine_cost(x, columns),
            )
        )
    return [
        *cases,
        Case(
            "aggregate",
            inputs,
            lambda x, backend: aggregate(plan, x, starts, length, backend=backend),
            lambda x: plan.double().mT @ x.double().reshape(clips, suppliers, width),
            read + plan.nbytes + 4 * clips * kept * width,
            product * kept,
            plain=lambda x: plan.to(x.dtype).mT @ x.reshape(clips, suppliers, width),
        ),
        Case(
            "temporal_change",
            inputs,
            lambda x, backend: temporal_change(x, backend=backend),
            lambda x: plain_change(x.double()),
            read,
            2 * frames * per_frame * width,
            plain=plain_change,
        ),
    ]


def choice_cases(size: dict, tokens: list) -> list[Case]:
    """What reads the costs of all pairs of a clip: the choice and the closed-form plan; float32 whatever the tokens."""
    device, frames = tokens[0].device, len(tokens[0])
    length = frames // size["clips"]
    starts = torch.arange(0, frames, length, device=device)
    cost = [pair_cost(x, starts, length, grid=size["grid"], spatial_weight=0.25, temporal_weight=0.2) for x in tokens]
    problems, count, _ = cost[0].shape
    kept = max(2, count // 10)
    weight = torch.rand(problems, count, device=device)
    free = torch.ones(problems, count, dtype=torch.bool, device=device)
    wanted = torch.full((problems,), kept, device=device)
    settings = {"max_steps": kept, "max_cost": HIGHEST, "stride": 8 if count >= 512 else 1}
    anchor = torch.stack([torch.randperm(count, device=device)[:kept].sort().values for _ in range(problems)])
    filled, supply = torch.ones_like(anchor, dtype=torch.bool), torch.rand(problems, count, device=device)

    def choose(x: torch.Tensor, backend: str) -> torch.Tensor:
        return facility_location(x, weight.to(x.dtype), None, free, wanted, backend=backend, **settings)

    def left(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """(B,) what the choice leaves to be transported; of choices equally good none is wrong."""
        nearest = x.double().masked_fill(~chosen[:, :, None], HIGHEST).amin(1)
        return torch.where(chosen.sum(1) == kept, (nearest * weight).sum(1), torch.nan)

    columns = anchor[:, None].expand(-1, count, -1)
    return [
        Case(
            "facility_location",
            cost,
            choose,
            lambda x: left(x, choose(x.double(), "reference")),
            kept * cost[0].nbytes // settings["stride"],
            kept * 3 * cost[0].numel() // settings["stride"],
            score=left,
            limit=1e-3,
        ),
        Case(
            "softmax_plan",
            cost,
            lambda x, backend: softmax_plan(x, anchor, filled, supply, epsilon=0.01, backend=backend),
            lambda x: (-x.double().gather(2, columns) / 0.01).softmax(2) * supply[:, :, None],
            8 * columns.numel(),
            4 * columns.numel(),
            limit=1e-4,
        ),
    ]


def sinkhorn_cases(size: dict, device: torch.device, sets: int) -> list[Case]:
    tokens = size["tokens"]

    def problem() -> tuple:
        cost = torch.rand(size["frames"], tokens, tokens // 6, device=device)
        supply = torch.ones(cost.shape[:2], device=device)
        return cost, supply, torch.full(cost[:, 0].shape, cost.shape[1] / cost.shape[2], device=device)

    def exact(x: tuple) -> torch.Tensor:
        """The plain iteration in float64, on logarithms."""
        cost, supply, demand = (part.double() for part in x)
        scores, g = -cost / 0.1, (cost - cost.amin(2, keepdim=True)).amin(1) / 0.1
        for _ in range(100):
            f = supply.log() - torch.logsumexp(scores + g[:, None], 2)
            g = demand.log() - torch.logsumexp(scores + f[:, :, None], 1)
        return (f[:, :, None] + scores + g[:, None]).exp()

    inputs = [problem() for _ in range(sets)]
    pairs = inputs[0][0].numel()
    return [
        Case(
            "sinkhorn, 100 iterations",
            inputs,
            lambda x, backend: sinkhorn(*x, epsilon=0.1, stop="never", backend=backend),
            exact,
            8 * pairs,
            400 * pairs,
        ),
        Case(
            "sinkhorn, own stop",
            inputs,
            lambda x, backend: sinkhorn(*x, epsilon=0.1, backend=backend),
            lambda x: x[1],
            8 * pairs,
            4 * pairs,
            score=lambda x, plan: plan.sum(2),
            limit=1e-3,  # the rule is met when its marginals are within the tolerance
        ),
    ]


def clips_case(size: dict, device: torch.device, sets: int) -> Case:
    """The inter-frame step of the paper along all clips."""
    clips, length = size["clips"], size["frames"] // size["clips"]
    ragged = torch.rand(clips, length, min(60, size["grid"][0] * size["grid"][1]), device=device) < 0.7
    inputs = [torch.randn(*ragged.shape, size["width"], device=device) for _ in range(sets)]
    rule = {"epsilon": 0.1, "iterations": 100, "stop": "marginal", "tolerance": 1e-3, "temporal_sigma": 1.5}
    rule |= {"keep_ratio": None, "threshold": 0.5, "strength": 1.0, "cap": 1.0}
    return Case(
        "clips",
        inputs,
        lambda x, backend: merge_clips(x, ragged, ragged.float(), backend=backend, **rule).anchors,
        lambda x: merge_clips(x.cpu(), ragged.cpu(), ragged.float().cpu(), **rule).anchors.to(device),
        inputs[0].nbytes,
        4 * inputs[0].numel() * ragged.shape[2],
    )
