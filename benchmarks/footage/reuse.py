"""What `tower_reuse` saves on real footage, and by how much features move, layer by layer.

    python -m benchmarks.footage.reuse CACHE [--timed 8] [--output FILE]

Clips of at most 30 s, a frame a second: a recording of a screen, a street seen by a fixed camera, and others that
move. Operations are counted on so400m shapes, at four frames a second too. Time is measured there with random weights
on --timed frames in the middle, all clips in turn, in bfloat16 where the processor has it. Errors are relative, of
every frame and after every layer, against the same layers on all patches: aot-tiny's SigLIP tower, and DINOv2 in the
product's own code. Fetches the packages of benchmarks.footage and one of Debian; needs `onnx`. The last line is JSON.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad

from aot.patch_reuse import ChangedPatches, ReusePlan, distinct_frames, patches_of, plan_reuse
from aot_tiny.training.train import faster_dtype
from benchmarks.bench_cpu import CPU, so400m
from benchmarks.footage import sources, vit
from benchmarks.measure import REUSE, environment, make_parser, save, seconds_in_turn
from benchmarks.models import make_model
from llava.model.multimodal_encoder.siglip_encoder import SigLipImageProcessor
from llava.model.multimodal_encoder.tower_layers import reusing_layers
from llava.video import load_video

CLIPS = {"screen": sources.SCREEN, "street": sources.STREET, "tree": sources.TREE, "box": sources.BOX,
         "film": sources.FILM}  # fmt: skip
SECONDS = 30
DINO_SIDE = 378  # pixels: 27 x 27 patches, as so400m has


def read(path: Path, rate: float) -> np.ndarray:
    """The clip's first SECONDS at so many frames a second, (F, H, W, 3) uint8."""

    def choose(times: list[float], _: float) -> list[int]:
        count = int(min(SECONDS, times[-1]) * rate)
        return [min(range(len(times)), key=lambda at: abs(times[at] - number / rate)) for number in range(count)]

    return load_video(path, choose=choose).frames


def resized(frames: np.ndarray, side: int) -> torch.Tensor:
    """(F, 3, side, side) uint8, stretched as the model does it."""
    return SigLipImageProcessor(size=(side, side)).resize(frames)


def planned(pixels: torch.Tensor, patch: int) -> ReusePlan:
    """What of frames (F, 3, S, S) in [0, 1] is computed, in patches of so many pixels a side."""
    return plan_reuse(patches_of(pixels, patch), REUSE, (pixels.shape[-1] // patch,) * 2)


def counted(tower, pixels: torch.Tensor) -> dict:
    """What of (F, 3, S, S) uint8 pixels is encoded: distinct frames, patches, and how many times fewer operations."""
    distinct = distinct_frames(pixels)[0]
    patches = planned(distinct / 255, tower.config.patch_size).patches(tower.num_patches)
    whole = tower.flops(len(pixels), len(pixels) * tower.num_patches)
    return {
        "frames": len(pixels),
        "distinct": len(distinct),
        "patches_reused": 1 - patches / (len(pixels) * tower.num_patches),
        "fewer_operations": {0: len(pixels) / len(distinct), REUSE: whole / tower.flops(len(distinct), patches)},
    }


def measured(tower, clips: dict[str, torch.Tensor], frames: int) -> dict:
    """Seconds of a tower on so many frames of all clips, plain (of one clip) and with what stands still left out."""
    middle = {name: (len(pixels) - frames) // 2 for name, pixels in clips.items()}
    parts = {name: pixels[middle[name] :][:frames] for name, pixels in clips.items()}

    def encode(pixels: torch.Tensor) -> None:
        tower.encode(distinct_frames(pixels)[0], reuse=REUSE)

    works = {"plain": lambda _: tower.encode(next(iter(parts.values())))}
    works |= {name: lambda _, pixels=pixels: encode(pixels) for name, pixels in parts.items()}
    times = seconds_in_turn(works, CPU, repeats=1, warmup=0)
    plain = times.pop("plain")
    rows = {
        name: {"seconds": time, "faster": plain / time, **counted(tower, parts[name])} for name, time in times.items()
    }
    return {"plain_seconds": plain, "clips": rows}


@dataclass(frozen=True)
class Encoder:
    """A trained tower: embed takes (F, 3, side, side) in [0, 1], norm the last layer's output."""

    name: str
    side: int
    patch: int
    embed: Callable[[torch.Tensor], torch.Tensor]
    layers: nn.ModuleList
    norm: Callable[[torch.Tensor], torch.Tensor] = lambda hidden: hidden
    class_token: bool = False


def encoders(cache: Path) -> list[Encoder]:
    """aot-tiny's tower, and the DINOv2 of the footage."""
    tiny, dino = make_model("tiny", CPU).get_vision_tower(), vit.load_tower(cache / sources.MODEL)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (vit.MEAN, vit.STD))
    return [
        Encoder(
            "aot-tiny", tiny.image_size, tiny.config.patch_size,
            embed=lambda pixels: tiny._embed(2 * pixels - 1), layers=tiny.vision_tower.vision_model.encoder.layers,
        ),
        Encoder(
            "DINOv2", DINO_SIDE, vit.PATCH, embed=lambda pixels: vit.embed(dino, (pixels - mean) / std),
            layers=dino.layers, norm=lambda hidden: vit.last_norm(dino, hidden), class_token=True,
        ),
    ]  # fmt: skip


def frame_errors(encoder: Encoder, pixels: torch.Tensor, plan: ReusePlan) -> torch.Tensor:
    """(layers, F) relative error of each frame (F, 3, S, S) in [0, 1] after each layer, the last one normed."""
    every = ReusePlan(list(range(len(pixels))), list(range(len(pixels))), [])
    if encoder.class_token:  # it stands before the patches, and is computed anew with any of them
        changed = [ChangedPatches(part.frames, pad(part.patches + 1, (1, 0))) for part in plan.changed]
        plan = ReusePlan(plan.keys, plan.key_of, changed)
    plain = reused = encoder.embed(pixels)
    rows = []
    for layer in encoder.layers:
        # layer by layer is as all at once: of the output, too, an unchanged patch is the key frame's
        plain, reused = (reusing_layers([layer], x, p, (), ())[0] for x, p in ((plain, every), (reused, plan)))
        norm = encoder.norm if layer is encoder.layers[-1] else lambda hidden: hidden
        expected, off = norm(plain), norm(reused) - norm(plain)
        rows.append(off.flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1))
    return torch.stack(rows)


def errors(encoder: Encoder, clip: str, frames: np.ndarray) -> list[dict]:
    """A row for every distinct frame of a clip: which share of its patches is reused, its error after each layer."""
    pixels = distinct_frames(resized(frames, encoder.side))[0] / 255
    plan = planned(pixels, encoder.patch)
    off, whole = frame_errors(encoder, pixels, plan), (encoder.side // encoder.patch) ** 2
    computed = dict.fromkeys(range(len(pixels)), 0) | dict.fromkeys(plan.keys, whole)
    computed |= {frame: part.patches.shape[1] for part in plan.changed for frame in part.frames}
    about = {"tower": encoder.name, "clip": clip}
    return [
        about | {"frame": frame, "reused": 1 - count / whole, "errors": off[:, frame].tolist()}
        for frame, count in computed.items()
    ]


@torch.inference_mode()
def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("cache", type=Path, help="folder for the packages")
    parser.add_argument("--timed", type=int, default=8, help="frames of each clip whose time is measured; 0: none")
    parser.add_argument("--layers", type=int, default=26, help="of so400m, where time is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for package in (*sources.PACKAGES, sources.DESKTOP):
        sources.fetch(package, options.cache)
    dtype = faster_dtype()
    tower, known, clips = so400m(options.layers).to(dtype), encoders(options.cache), {}
    tower.config.num_hidden_layers = options.layers  # by which operations are counted
    result = {"benchmark": "reuse", **environment(CPU), "bound": REUSE, "dtype": str(dtype), "errors": []}
    result["a_second"] = {1: {}, 4: {}}
    for name, file in CLIPS.items():
        for rate, rows in result["a_second"].items():
            frames = read(options.cache / file, rate)
            pixels = resized(frames, tower.image_size)
            rows[name] = counted(tower, pixels)
            if rate == 1:
                clips[name] = pixels
                result["errors"] += [row for encoder in known for row in errors(encoder, name, frames)]
        print(name, result["a_second"][1][name], flush=True)
    save(result, options.output)
    result["measured"] = measured(tower, clips, options.timed) if options.timed else None
    save(result, options.output)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
