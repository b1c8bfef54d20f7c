"""What the benchmarks share: clocks, errors, and the circumstances that go with every figure."""

import platform
import statistics
import subprocess
import time
from pathlib import Path

import torch


def settle(device: torch.device) -> None:
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
    for i in range(warmup):
        work(i)
    now = time.process_time if clock(device) == "process" else time.perf_counter
    times = []
    for i in range(repeats):
        settle(device)
        start = now()
        work(i)
        settle(device)
        times.append(now() - start)
    return statistics.median(times)


def seconds_in_turn(works: dict, device: torch.device, *, repeats: int) -> dict[str, float]:
    """Median seconds of several pieces of work that are run in turn, so that a loaded machine hits all alike."""
    times = {name: [] for name in works}
    for work in works.values():
        work(0)
    for i in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(lambda _, work=work, i=i: work(i), device, repeats=1, warmup=0))
    return {name: statistics.median(values) for name, values in times.items()}


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected, in float64; NaN where value holds one."""
    expected = expected.double()
    return float((value.double() - expected).norm() / expected.norm())


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


def circumstances(device: torch.device) -> dict:
    """Hardware, versions and commit that a result was measured with."""
    root = Path(__file__).parents[1]
    asked = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip() or None
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "clock": clock(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    for name in ("triton", "transformers"):
        try:
            found[name] = __import__(name).__version__
        except ModuleNotFoundError:
            found[name] = None
    return found


def processor() -> str:
    """Name of the CPU as the kernel tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
