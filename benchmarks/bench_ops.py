"""Every operation behind aot/ops: error against float64, time, and achieved rates beside the ceilings of this run.

    python -m benchmarks.bench_ops [--device cuda] [--size small|7b] [--output FILE]

bytes and FLOP are the least the operation needs: every input read once, every output written once. A backend whose
error is above its limit gets no time. "plain" is the error of the same formula in the inputs' own type; on half types
no backend may have twice that error. "method" is the whole of `compress` at 10 %: on the reference, as it is, and, on a
GPU, recorded as a CUDA graph, which leaves the launches out. The last line is JSON.
"""

import json
import sys

import torch

from aot import AOTConfig, compress
from benchmarks.measure import ceilings, environment, make_parser, relative_error, save, seconds, seconds_in_turn
from benchmarks.op_cases import SIZES, Case, make_cases

LIMITS = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
ALIKE = 0.95  # of the tokens kept; what is equally good may be decided by the last digit


def measure(case: Case, backend: str, device: torch.device, dtype: torch.dtype, repeats: int) -> dict:
    """One row: the error first, and a time only when the result is right."""
    first = case.inputs[0]
    exact = case.formula(*(x.double() for x in first))
    error = relative_error(case.score(case.run(*first, backend=backend), *first), exact)
    limit = LIMITS[dtype] if case.limit is None else case.limit
    row = {"op": case.name, "backend": backend, "dtype": str(dtype).removeprefix("torch."), "error": error}
    if first[0].dtype != torch.float32:
        row["plain_error"] = relative_error(case.formula(*first), exact)
        limit = min(limit, 2 * row["plain_error"])
    row["limit"] = limit
    if not error <= limit:
        return row | {"wrong": True}
    sets = len(case.inputs)
    took = seconds(lambda i: case.run(*case.inputs[i % sets], backend=backend), device, repeats=repeats, warmup=2)
    return row | {"ms": 1e3 * took, "bytes_per_s": case.bytes / took, "flop_per_s": case.flop / took}


@torch.inference_mode()
def method(size: dict, device: torch.device, dtype: torch.dtype, repeats: int) -> dict:
    """Milliseconds of the whole method at 10 %, features at hand, which keeps what the reference keeps."""
    frames, tokens, width = size["frames"], size["tokens"], size["width"]
    features = torch.randn(1, tokens, width, device=device) + 0.5 * torch.randn(frames, tokens, width, device=device)
    maps, features = torch.rand(2, frames, tokens, device=device), features.to(dtype)
    configs = {name: AOTConfig(backend=name) for name in ("auto", "reference")}
    found = {name: compress(features, *maps, config) for name, config in configs.items()}
    places = [video.frame * tokens + video.position[:, 0] * width + video.position[:, 1] for video in found.values()]
    common = float(torch.isin(*places).float().mean())
    row = {"frames": frames, "dtype": str(dtype).removeprefix("torch."), "kept_alike": common}
    if common < ALIKE or not bool(found["auto"].tokens.isfinite().all()):
        return row | {"wrong": "the reference keeps other tokens"}
    works = {name: lambda _, config=config: compress(features, *maps, config) for name, config in configs.items()}
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = compress(features, *maps, configs["auto"])
        graph.replay()
        if not torch.equal(recorded.tokens, found["auto"].tokens):
            return row | {"wrong": "the recorded method gives other tokens"}
        works["recorded"] = lambda _: graph.replay()
    return row | {f"{name}_ms": 1e3 * took for name, took in seconds_in_turn(works, device, repeats=repeats).items()}


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES)
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    torch.manual_seed(0)
    rows, measured, methods = [], {}, []
    name, repeats = options.size or ("7b" if gpu else "small"), options.repeats or (30 if gpu else 3)
    for dtype in (torch.bfloat16, torch.float32) if gpu else (torch.float32,):
        measured[str(dtype).removeprefix("torch.")] = ceilings(device, dtype)
        for case in make_cases(SIZES[name], device, dtype, 4 if gpu else 2):
            for backend in ("reference", "triton") if gpu else ("reference",):
                rows.append(measure(case, backend, device, dtype, repeats))
                print_row(rows[-1])
        methods.append(method(SIZES[name], device, dtype, repeats))
        print(methods[-1], flush=True)
    result = {"benchmark": "ops", "size": name, **environment(device), "ceilings": measured, "rows": rows}
    result["method"] = methods
    save(result, options.output)
    print(json.dumps(result))
    return int(any("wrong" in row for row in rows + methods))


def print_row(row: dict) -> None:
    rate = (
        "wrong, no time"
        if "wrong" in row
        else (f"{row['ms']:9.3f} ms {row['bytes_per_s'] / 1e9:8.1f} GB/s {row['flop_per_s'] / 1e12:8.3f} TFLOP/s")
    )
    plain = f" plain {row['plain_error']:.1e}" if "plain_error" in row else ""
    print(f"{row['op']:26} {row['backend']:10} {row['dtype']:9} error {row['error']:.1e}{plain}  {rate}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
