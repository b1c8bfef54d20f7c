"""The vision tower with features reused in time over the tower without, by the share of patches that stand still.

    python -m benchmarks.bench_reuse [--frames 8] [--layers 26] [--dtypes float32 bfloat16] [--shares 0 25 50 75 90 100]

SigLIP so400m with random weights and --layers of its 26, on frames of noise of which a band is new in every frame.
"flops" is the ratio that is counted, "ratio" the one of measured times, all taken in turn in one run. Fewer layers make
the search for what changed weigh more. A wrong result ends the run without a time. The last line is JSON.
"""

import json
import sys

import torch

from aot.reuse import distinct_frames
from benchmarks.bench_cpu import CPU, so400m
from benchmarks.measure import WrongResult, check, environment, make_parser, relative_error, save, seconds_in_turn

BOUND = 0.02


def clip(tower, frames: int, share: float) -> torch.Tensor:
    """Pixels (F, 3, S, S) in which that share of the patches is the same in all frames, in whole rows or nearly."""
    side, patch = tower.num_patches_per_side, tower.config.patch_size
    pixels = torch.rand(1, 3, tower.image_size, tower.image_size).repeat(frames, 1, 1, 1)
    for place in range(round((1 - share) * side**2)):
        row, column = (patch * index for index in divmod(place, side))
        pixels[1:, :, row : row + patch, column : column + patch] = torch.rand(frames - 1, 3, patch, patch)
    return 2 * pixels - 1


@torch.inference_mode()
def reuse_ratios(tower, frames: int, shares: list[float], repeats: int) -> dict:
    """Process milliseconds of the plain tower, and of each share what is faster and by how much it is off."""
    clips = {share: clip(tower, frames, share) for share in shares}
    plain = {share: tower.encode(pixels).features for share, pixels in clips.items()}
    rows = {}
    for share, pixels in clips.items():
        found = tower.encode(pixels, reuse=BOUND)
        error = relative_error(found.features, plain[share])
        check(error < (0.02 if share in (0, 1) else 1), f"the features at {share:.0%} are off by {error:.1%}")
        flops = tower.flops(frames, frames * tower.num_patches) / tower.flops(frames, found.patches)
        rows[share] = {"still": share, "patches": found.patches, "relative_error": error, "flops": flops}
    works = {"plain": lambda _: tower.encode(clips[shares[0]])}
    works |= {share: lambda _, pixels=pixels: tower.encode(pixels, reuse=BOUND) for share, pixels in clips.items()}
    works["equal frames"] = lambda _: distinct_frames(clips[shares[-1]])
    times = seconds_in_turn(works, CPU, repeats=repeats)
    for share, row in rows.items():
        row |= {"ms": 1e3 * times[share], "ratio": times["plain"] / times[share]}
    search = {f"{name.replace(' ', '_')}_ms": 1e3 * times[name] for name in ("plain", "equal frames")}
    return {"frames": frames, "layers": tower.num_layers, **search, "shares": list(rows.values())}


def main() -> int:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0, 25, 50, 75, 90, 100], help="still, in percent")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = {"benchmark": "reuse", **environment(CPU)}
    shares = [share / 100 for share in options.shares]
    for dtype in options.dtypes:
        tower = so400m(options.layers).to(getattr(torch, dtype))
        tower.config.num_hidden_layers = options.layers
        try:
            result[dtype] = found = reuse_ratios(tower, options.frames, shares, options.repeats)
        except WrongResult as reason:
            sys.exit(f"{dtype}: {reason}; no time is reported.")
        for row in found["shares"]:
            print(f"{dtype}, {row['still']:.0%} still: {row['ratio']:.2f} times as fast, counted {row['flops']:.2f}")
    save(result, options.output)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
