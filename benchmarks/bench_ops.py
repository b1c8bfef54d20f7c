"""Every operation behind aot/ops: error against float64, time, and achieved rates beside the ceilings of this run.

    python -m benchmarks.bench_ops [--device cuda] [--size small|7b] [--output FILE]

bytes and FLOP are the least the operation needs: every input read once, every output written once. A backend whose
error is above its limit gets no time. The last line is JSON.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from aot import AOTConfig
from aot.inter_frame import merge_clips
from aot.ops import aggregate, novelty, pair_cost, received_attention, sinkhorn
from benchmarks.measure import ceilings, circumstances, relative_error, seconds

# frames, pooled grid, width, tower tokens, heads, head width, kept tokens of a clip (10 %), clips
SIZES = {
    "small": {"frames": 8, "grid": (6, 6), "width": 192, "tokens": 144, "heads": 3, "head": 64, "clips": 2},
    "7b": {"frames": 32, "grid": (14, 14), "width": 3584, "tokens": 729, "heads": 16, "head": 72, "clips": 8},
}
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


@dataclass
class Case:
    """One operation on several sets of inputs, so that repeated runs do not measure the cache.

    run(inputs, backend) -> tensor. exact(inputs) -> float64 tensor. bytes, flop: the least it needs.
    """

    name: str
    inputs: list
    run: object
    exact: object
    bytes: int
    flop: int


def cosine_cost64(tokens, starts, length, anchor, grid):
    """Pair cost in float64 without the spatial and temporal terms, which the kernels' tests cover."""
    unit = tokens.double() / tokens.double().norm(dim=2, keepdim=True)
    groups = unit.reshape(len(starts), -1, tokens.shape[2])
    return 1 - groups @ unit.flatten(0, 1)[anchor].mT


def sinkhorn64(cost, supply, demand, epsilon, iterations):
    """The plain iteration in float64, on logarithms."""
    scores, g = -cost.double() / epsilon, torch.zeros_like(demand, dtype=torch.float64)
    g = g + (cost - cost.amin(2, keepdim=True)).amin(1).double() / epsilon
    for _ in range(iterations):
        f = supply.double().log() - torch.logsumexp(scores + g[:, None], 2)
        g = demand.double().log() - torch.logsumexp(scores + f[:, :, None], 1)
    return (f[:, :, None] + scores + g[:, None]).exp()


def attention64(q, k):
    """Received attention in float64, frame by frame."""
    return torch.stack(
        [
            (a.double() @ b.double().mT * a.shape[2] ** -0.5).softmax(-1).sum(1).mean(0)
            for a, b in zip(q, k, strict=True)
        ]
    )


def novelty64(tokens):
    unit = tokens.double() / tokens.double().norm(dim=2, keepdim=True)
    mean = unit.mean(1, keepdim=True)
    change = torch.cat([torch.zeros_like(unit[:1, :, 0]), 1 - (unit[1:] * unit[:-1]).sum(2)])
    return torch.stack([change, 1 - (unit * mean / mean.norm(dim=2, keepdim=True)).sum(2)])


def make_cases(size: dict, device: torch.device, dtype: torch.dtype, sets: int) -> list[Case]:
    frames, width, clips = size["frames"], size["width"], size["clips"]
    per_frame = size["grid"][0] * size["grid"][1]
    length = frames // clips
    suppliers, kept = length * per_frame, max(2, length * per_frame // 10)
    heads = (frames, size["heads"], size["tokens"], size["head"])
    item = torch.empty((), dtype=dtype).element_size()
    video = (frames, per_frame, width)
    starts = torch.arange(0, frames, length, device=device)

    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=dtype)

    def transport():
        cost = torch.rand(frames, size["tokens"], size["tokens"] // 6, device=device)
        supply = torch.ones(cost.shape[:2], device=device)
        return cost, supply, torch.full(cost[:, 0].shape, cost.shape[1] / cost.shape[2], device=device)

    tokens = [randn(1, *video[1:]) + 0.5 * randn(*video) for _ in range(sets)]
    anchor = torch.stack([torch.randperm(suppliers, device=device)[:kept].sort().values for _ in range(clips)])
    anchor = anchor + starts[:, None] * per_frame
    plan = torch.rand(clips, suppliers, kept, device=device)
    problem = transport()
    ragged = torch.rand(clips, length, min(60, per_frame), device=device) < 0.7
    chained = [torch.randn(*ragged.shape, width, device=device) for _ in range(sets)]
    rule = AOTConfig.preset("paper", num_anchors=126, stop="problem")
    map_flop = 2 * frames * size["heads"] * size["tokens"] ** 2 * size["head"]
    token_bytes, cost_bytes = frames * per_frame * width * item, 4 * clips * suppliers * kept
    product = 2 * clips * suppliers * kept * width
    pairs = problem[0].numel()
    return [
        Case(
            "received_attention",
            [(randn(*heads), randn(*heads)) for _ in range(sets)],
            lambda x, backend: received_attention(*x, size["head"] ** -0.5, backend=backend),
            lambda x: attention64(*x),
            2 * frames * size["heads"] * size["tokens"] * size["head"] * item,
            2 * map_flop,
        ),
        Case(
            "pair_cost",
            tokens,
            lambda x, backend: pair_cost(
                x, starts, length, anchor, grid=size["grid"], spatial_weight=0.0, backend=backend
            ),
            lambda x: cosine_cost64(x, starts, length, anchor, size["grid"]),
            token_bytes + cost_bytes,
            product,
        ),
        Case(
            "aggregate",
            tokens,
            lambda x, backend: aggregate(plan, x, starts, length, backend=backend),
            lambda x: plan.double().mT @ x.double().reshape(clips, suppliers, width),
            token_bytes + cost_bytes + 4 * clips * kept * width,
            product,
        ),
        Case(
            "novelty",
            tokens,
            lambda x, backend: torch.stack(novelty(x, backend=backend)),
            novelty64,
            token_bytes,
            6 * frames * per_frame * width,
        ),
        Case(
            "sinkhorn, 100 iterations",
            [transport() for _ in range(sets)],
            lambda x, backend: sinkhorn(*x, epsilon=0.1, stop="never", backend=backend),
            lambda x: sinkhorn64(*x, 0.1, 100),
            8 * pairs,
            400 * pairs,
        ),
        Case(
            "sinkhorn, own stop",
            [transport() for _ in range(sets)],
            lambda x, backend: sinkhorn(*x, epsilon=0.1, backend=backend).sum(2),
            lambda x: x[1],
            8 * pairs,
            4 * pairs,
        ),
        Case(
            "clips",
            chained,
            lambda x, backend: merge_clips(x, ragged, ragged.float(), rule.replace(backend=backend)).anchors,
            lambda x: merge_clips(x.cpu(), ragged.cpu(), ragged.float().cpu(), rule).anchors.to(device),
            4 * chained[0].numel(),
            4 * chained[0].numel() * ragged.shape[2],
        ),
    ]


def measure(case: Case, backend: str, device: torch.device, repeats: int) -> dict:
    """One row: the error first, and a time only when the result is right."""
    inputs = case.inputs
    dtype = inputs[0][0].dtype if isinstance(inputs[0], tuple) else inputs[0].dtype
    # the rule of `sinkhorn, own stop` is met when its marginals are within the tolerance, 1e-3
    limit = 1e-3 if case.name == "sinkhorn, own stop" else LIMITS[dtype]
    error = relative_error(case.run(inputs[0], backend), case.exact(inputs[0]))
    row = {
        "op": case.name,
        "backend": backend,
        "dtype": str(dtype).removeprefix("torch."),
        "error": error,
        "limit": limit,
    }
    if not error <= limit:
        return row | {"wrong": True}
    took = seconds(lambda i: case.run(inputs[i % len(inputs)], backend), device, repeats=repeats, warmup=2)
    return row | {"ms": 1e3 * took, "bytes_per_s": case.bytes / took, "flop_per_s": case.flop / took}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--output", type=Path, help="file for the JSON, beside the last line")
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    torch.manual_seed(0)
    rows, measured = [], {}
    name = options.size or ("7b" if gpu else "small")
    for dtype in (torch.bfloat16, torch.float32) if gpu else (torch.float32,):
        measured[str(dtype).removeprefix("torch.")] = ceilings(device, dtype)
        for case in make_cases(SIZES[name], device, dtype, 4 if gpu else 2):
            for backend in ("reference", "triton") if gpu else ("reference",):
                rows.append(measure(case, backend, device, options.repeats or (30 if gpu else 3)))
                print_row(rows[-1])
    result = {"benchmark": "ops", "size": name, **circumstances(device), "ceilings": measured, "rows": rows}
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return int(any("wrong" in row for row in rows))


def print_row(row: dict) -> None:
    rate = (
        "wrong, no time"
        if "wrong" in row
        else (f"{row['ms']:9.3f} ms {row['bytes_per_s'] / 1e9:8.1f} GB/s {row['flop_per_s'] / 1e12:8.3f} TFLOP/s")
    )
    print(f"{row['op']:26} {row['backend']:10} {row['dtype']:9} error {row['error']:.1e}  {rate}")


if __name__ == "__main__":
    sys.exit(main())
