"""What the benchmarks share: clocks, errors, memory, and what stands beside every figure."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from aot import layers
from llava.eval.provenance import commit, processor
from llava.utils import versions

FEATURE_ERROR = 3e-2  # relative difference of features that half precision may make
REUSE = 0.02  # largest difference of a patch that is encoded once


class WrongResult(Exception):
    """The result of a measurement is not what it must be, so that it gets no time."""


def check(good: bool, what: str) -> None:
    """WrongResult, saying what is wrong, unless it is good."""
    if not good:
        raise WrongResult(what)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> str:
    """ "process", the CPU seconds of this process, where one CPU thread does the work: what else runs there does not
    stretch them as it does the time on the wall, which is taken ("wall") everywhere else.
    """
    return "process" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"


def seconds(work, device: torch.device, *, repeats: int, warmup: int = 1) -> float:
    """Median seconds of work(i), i = 0, 1, …; the argument lets work rotate among inputs."""
    return seconds_in_turn({"": work}, device, repeats=repeats, warmup=warmup)[""]


def seconds_in_turn(works: dict, device: torch.device, *, repeats: int, warmup: int = 1) -> dict[str, float]:
    """Median seconds of several pieces of work that are run in turn, so that a loaded machine hits all alike."""
    now = time.process_time if clock(device) == "process" else time.perf_counter
    times = {name: [] for name in works}
    for i in range(-warmup, repeats):
        for name, work in works.items():
            synchronize(device)
            start = now()
            work(max(i, 0))
            synchronize(device)
            if i >= 0:
                times[name].append(now() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected, in float64; NaN where value holds one."""
    expected = expected.double()
    return float((value.double() - expected).norm() / expected.norm())


def attention_ratio(tower, frames: int, *, repeats: int) -> dict:
    """What the received attention of two layers adds to a tower: milliseconds without and with it, and their ratio.

    WrongResult for other features or sums.
    """
    size, device = tower.image_size, tower.device
    pixels = torch.randn(frames, 3, size, size, device=device, dtype=tower.dtype)
    wanted = layers(tower.num_layers)
    found, plain = tower.encode(pixels, received=wanted), tower.encode(pixels)
    sums = torch.stack([found.received[layer].sum(1) for layer in wanted])
    # half precision alone moves the features of 26 layers by 1.3 %, and on a GPU fused attention has several kernels
    most, feature_most = (1e-2, FEATURE_ERROR) if tower.dtype != torch.float32 else (1e-4, 1e-4)
    # a softmax hands out as much attention as there are queries; a NaN is no error below the bound
    off = relative_error(sums, torch.full_like(sums, tower.num_patches))
    check(off <= most, f"the received attention is off by {off:.1e}")
    other = relative_error(found.features, plain.features)
    check(other <= (0 if device.type == "cpu" else feature_most), f"the features are off by {other:.1e}")
    works = {"plain": lambda _: tower.encode(pixels), "received": lambda _: tower.encode(pixels, received=wanted)}
    times = seconds_in_turn(works, device, repeats=repeats)
    return {"frames": frames, "layers": tower.num_layers, **ratio(times, "received", "plain")}


def ratio(times: dict[str, float], over: str, under: str) -> dict[str, float]:
    """Seconds by name as milliseconds, and the ratio of two of them."""
    return {f"{name}_ms": 1e3 * value for name, value in times.items()} | {"ratio": times[over] / times[under]}


def reuse_ratios(encode: Callable, clips: dict[float, torch.Tensor], *, repeats: int) -> dict:
    """A tower that reuses features over the same without, on clips by the share of their patches that stands still.

    encode(pixels, reuse) -> (features, counted operations as a share of those without reuse).
    """
    rows = []
    for share, pixels in clips.items():
        plain, (found, spent) = encode(pixels, None)[0], encode(pixels, REUSE)
        error = relative_error(found, plain)
        check(error < (0.02 if share in (0, 1) else 1), f"the features at {share:.0%} are off by {error:.1%}")
        rows.append({"still": share, "relative_error": error, "flops": 1 / spent})
    works = {share: lambda _, pixels=pixels: encode(pixels, REUSE) for share, pixels in clips.items()}
    works["plain"] = lambda _: encode(next(iter(clips.values())), None)
    times = seconds_in_turn(works, torch.device("cpu"), repeats=repeats, warmup=0)  # each ran before
    for row in rows:
        row |= {"ms": 1e3 * times[row["still"]], "ratio": times["plain"] / times[row["still"]]}
    return {"plain_ms": 1e3 * times["plain"], "shares": rows}


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Bytes/s of a large copy (read and written) and FLOP/s of a large product, measured here and now."""
    gpu = device.type == "cuda"
    source = torch.randn(2**28 if gpu else 2**24, device=device)
    target = torch.empty_like(source)
    copied = seconds(lambda _: target.copy_(source), device, repeats=10 if gpu else 3)
    side = 8192 if gpu else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = seconds(lambda _: left @ right, device, repeats=10 if gpu else 3)
    return {"bytes_per_s": 2 * source.nbytes / copied, "flop_per_s": 2 * side**3 / product}


def process_status(field: str, process: int | str = "self") -> int:
    """A number of /proc/PROCESS/status (Linux): VmRSS, the KiB in memory now, VmHWM, their highest, or Threads."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


@contextmanager
def running(command: list[str]) -> Iterator[tuple[subprocess.Popen, str]]:
    """(process, first line that it prints) of a server, which ends with the block."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline()
    finally:
        process.terminate()
        process.wait(30)


def environment(device: torch.device) -> dict:
    """Hardware, versions and commit that a result was measured with."""
    source = commit()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "clock": clock(device),
        "commit": source and source["revision"][:7],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **versions(("torch", "triton", "transformers")),
    }


def make_parser(doc: str, *, repeats: int | None = None) -> argparse.ArgumentParser:
    """A benchmark's parser: its module's first line, --repeats and --output."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--output", type=Path, help="file for the JSON, beside the last line")
    return parser


def save(result: dict, file: Path | None) -> None:
    """Writes a result as JSON, where a file was asked for."""
    if file:
        file.write_text(json.dumps(result, indent=1) + "\n")


def measure_parts(result: dict, parts: dict[str, Callable[[], dict | list]], file: Path | None) -> None:
    """Adds what each part measures, on a CPU, prints and saves it; a wrong result ends the run without a time."""
    torch.manual_seed(0)
    for name, part in parts.items():
        try:
            with torch.inference_mode():
                result[name] = part()
        except WrongResult as reason:
            sys.exit(f"{name}: {reason}; no time is reported.")
        print(name, result[name], flush=True)
    save(result, file)
    print(json.dumps(result))
