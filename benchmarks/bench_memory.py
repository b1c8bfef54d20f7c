"""Peak memory of streaming a long video through tower and method on a CPU, against a short one.

    python -m benchmarks.bench_memory [--frames 64 1024] [--limit 1.3]

Each number of frames runs in a process of its own, on the embedded model at 10 %. What counts is the highest resident
memory above that before the first frame, less the kept tokens. The last line is JSON; the exit status is 1 when the
ratio of the last to the first is above --limit.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.measure import circumstances

CHUNK = 16


def resident(field: str) -> int:
    """Bytes of a field of this process's status: VmRSS now, VmHWM at the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def child(frames: int) -> dict:
    """Streams frames and says what that took."""
    from benchmarks.shapes import make_model
    from llava.model.long_video import compress_stream

    torch.manual_seed(0)
    model = make_model("tiny", torch.device("cpu"))
    model.config.aot = {"retention": 0.1}
    size = model.get_vision_tower().image_size
    settled = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest starts anew
    video = compress_stream(model, (torch.randn(CHUNK, 3, size, size) for _ in range(frames // CHUNK)))
    wanted = max(1, video.tokens_before // 10)
    if video.num_visual != wanted or not bool(video.tokens.isfinite().all()):
        sys.exit(f"The result is wrong ({video.num_visual} tokens, {wanted} expected); nothing is reported.")
    above = resident("VmHWM") - settled
    kept = sum(getattr(video, name).nbytes for name in ("tokens", "frame", "position", "kind", "mass"))
    return {"frames": frames, "above_mib": above / 2**20, "kept_mib": kept / 2**20}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", nargs="+", type=int, default=[64, 1024])
    parser.add_argument("--limit", type=float, default=1.3)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child)))
        return 0
    rows = []
    for frames in options.frames:
        command = [sys.executable, "-m", "benchmarks.bench_memory", "--child", str(frames)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1])
    net = [row["above_mib"] - row["kept_mib"] for row in rows]
    ratio = net[-1] / net[0]
    result = {"benchmark": "memory", **circumstances(torch.device("cpu")), "rows": rows, "ratio": round(ratio, 3)}
    print(json.dumps(result | {"limit": options.limit}))
    return int(ratio > options.limit)


if __name__ == "__main__":
    sys.exit(main())
