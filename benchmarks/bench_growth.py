"""Time and memory of the embedded model's tower and method against frames and retention, as a whole and streamed.

    python -m benchmarks.bench_growth [--frames 8 32 128 512 1024] [--output FILE] [--plot docs/images/growth.svg]

Each point runs in a fork of a process that has loaded the model: peak memory is above that before the first frame, with
the pixels of the whole video and the kept tokens; the time is of the same run, on a model that has run once.
Exponents are slopes of least squares
through the logarithms of all points. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.bench_memory import CHUNK, resident
from benchmarks.measure import circumstances
from benchmarks.plot_growth import log_axes, slope
from benchmarks.shapes import make_model
from llava.model.long_video import compress_stream

CPU = torch.device("cpu")
WAYS = ("whole", "streamed")


def work_of(model, way: str, frames: int) -> Callable:
    """What encodes and compresses random frames, as a whole or in chunks."""
    size = model.get_vision_tower().image_size

    def chunks():
        for start in range(0, frames, CHUNK):
            yield torch.randn(min(CHUNK, frames - start), 3, size, size)

    if way == "streamed":
        return lambda: compress_stream(model, chunks())
    return lambda: model.video_tokens(model.encode_video(torch.randn(frames, 3, size, size)))[1]


@torch.inference_mode()
def measure(model, way: str, frames: int, retention: float) -> dict:
    """One point; ends with an error when the number of tokens is wrong."""
    model.config.aot = {"retention": retention}
    work = work_of(model, way, frames)
    settled = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest starts anew
    start = time.process_time()
    video = work()
    spent = time.process_time() - start
    above = resident("VmHWM") - settled
    if video.num_visual != video.config.budget(frames, video.tokens_before // frames):
        raise RuntimeError(f"{video.num_visual} tokens are not what was asked for; nothing is reported.")
    return {"way": way, "frames": frames, "retention": retention, "ms": 1e3 * spent, "above_mib": above / 2**20}


def draw(result: dict, output: Path) -> dict[str, float]:
    """Time and memory against frames and retention; returns the exponents."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "aot"
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    exponents = {}
    for line, along in zip(panels, ("frames", "retention"), strict=True):
        for axis, (field, unit) in zip(line, (("ms", "process ms"), ("above_mib", "peak MiB")), strict=True):
            both = result[f"by_{along}"]
            for way in WAYS:
                rows = [row for row in both if row["way"] == way]
                xs, ys = [row[along] for row in rows], [row[field] for row in rows]
                exponents[f"{way}, {field} against {along}"] = fit = round(slope(xs, ys), 2) + 0.0
                axis.plot(xs, ys, marker="o", label=f"{way}: exponent {fit:.2f}")
            axis.set(xlabel=along, ylabel=unit)
            log_axes(axis, [row[along] for row in both], [row[field] for row in both])
            axis.legend(fontsize=8)
    fixed = result["by_retention"][0]["frames"], result["by_frames"][0]["retention"]
    figure.suptitle(f"aot-tiny, {result['device']}: retention {fixed[1]:g} above, {fixed[0]} frames below")
    figure.savefig(output, metadata={"Date": None})
    return exponents


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 32, 128, 512, 1024])
    parser.add_argument("--retentions", nargs="+", type=float, default=[0.05, 0.1, 0.25, 0.5])
    parser.add_argument("--at", type=int, default=128, help="frames of the curve against retention")
    parser.add_argument("--output", type=Path, help="file for the JSON, beside the last line")
    parser.add_argument("--plot", type=Path, help="file for the picture (.svg)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # forks need it, and so does the process's clock
    torch.manual_seed(0)
    model = make_model("tiny", CPU)
    measure(model, "whole", 8, 0.1)

    def point(way: str, frames: int, retention: float) -> dict:
        context = multiprocessing.get_context("fork")
        rows = context.SimpleQueue()
        process = context.Process(target=lambda: rows.put(measure(model, way, frames, retention)))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{way}, {frames} frames: measuring failed; nothing is reported.")
        row = rows.get()
        print(json.dumps(row), flush=True)
        return row

    result = {"benchmark": "growth", **circumstances(CPU)}
    result["by_frames"] = [point(way, frames, 0.1) for way in WAYS for frames in options.frames]
    result["by_retention"] = [point(way, options.at, retention) for way in WAYS for retention in options.retentions]
    if options.plot:
        result["exponents"] = draw(result, options.plot)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
