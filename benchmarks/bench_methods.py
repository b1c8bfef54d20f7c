"""CPU time of every method on the same pooled tokens, in turn in one run, and as multiples of EVS and of the default.

    python -m benchmarks.bench_methods [--width 3584] [--frames 32] [--retention 0.1]

Pooled tokens of 14x14 a frame that resemble those of the frame before, no pooling. The clock is the CPU time of this
process on one thread. The last line is JSON. Counts are checked before any time is reported. Exit status 1 where the
default takes more than --times-evs of EVS or is above FlashVID.
"""

import argparse
import json
import sys

import torch

from aot import AOTConfig, compress, method_names
from aot.registry import get_method

from .measure import circumstances, seconds_in_turn

CPU = torch.device("cpu")
GRID = (14, 14)


def make_inputs(frames: int, width: int) -> dict[str, torch.Tensor]:
    """Features (T, P, D) of a still scene with noise and a moving part, importance maps (T, P) and keys (T, P, 72)."""
    generator = torch.Generator().manual_seed(0)
    tokens = GRID[0] * GRID[1]
    features = torch.randn(1, tokens, width, generator=generator).repeat(frames, 1, 1)
    for frame in range(frames):
        features[frame, (7 * frame) % tokens :][:30] = torch.randn(1, width, generator=generator)
    features += 0.3 * torch.randn(frames, tokens, width, generator=generator)
    maps = torch.rand(3, frames, tokens, generator=generator)
    keys = torch.randn(frames, tokens, 72, generator=generator)
    return {"features": features, "shallow": maps[0], "deep": maps[1], "attention_last": maps[2], "keys": keys}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--width", type=int, default=3584)
    parser.add_argument("--retention", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="*", help="default: all that act before the language model")
    parser.add_argument("--times-evs", type=float, default=2.0, help="most that the default may take of EVS's time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    inputs = make_inputs(options.frames, options.width)
    extras = {name: inputs[name] for name in ("attention_last", "keys")}
    names = options.methods or [
        name for name in method_names() if not get_method(name).in_llm and get_method(name).kind != "tuned"
    ]
    works = {}
    for name in dict.fromkeys(["aot", "evs", "flashvid", *names]):
        config = AOTConfig(method=name, retention=options.retention)

        def work(_, config=config):
            return compress(
                inputs["features"], inputs["shallow"], inputs["deep"], config, pool=None, grid=GRID, extras=extras
            )

        if work(0).num_visual != config.budget(options.frames, GRID[0] * GRID[1]):
            sys.exit(f"{name} gives a wrong count; no time is reported.")
        works[name] = work
    times = seconds_in_turn(works, CPU, repeats=options.repeats)
    print(f"{'method':10} {'ms':>8} {'/ evs':>7} {'aot /':>7}")
    for name, time in sorted(times.items(), key=lambda item: item[1]):
        print(f"{name:10} {time * 1e3:8.1f} {time / times['evs']:7.2f} {times['aot'] / time:7.2f}")
    ratios = {name: round(times["aot"] / times[name], 3) for name in ("evs", "flashvid")}
    milliseconds = {name: round(time * 1e3, 2) for name, time in times.items()}
    shape = {"frames": options.frames, "grid": GRID, "width": options.width, "retention": options.retention}
    print(json.dumps({"benchmark": "methods", **circumstances(CPU), **shape, "ms": milliseconds, "aot_over": ratios}))
    return 0 if ratios["evs"] <= options.times_evs and ratios["flashvid"] <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
