"""Numbers of every method but the default on seeded input, kept in tests/data/aot/pins.json.

Published constants and steps that no sum by hand covers change them. After a change that is meant to change them,
`python -m tests.aot.pins` writes them anew; the default's come from tests/aot/reference_default.py instead.
"""

import json
from pathlib import Path

import numpy as np
import torch

from aot import AOTConfig, compress, method_names

FILE = Path(__file__).parents[1] / "data" / "aot" / "pins.json"
WIDTH = 12


def rival(method, retention, frames=12, grid=(5, 6), pool=None, **options):
    return AOTConfig(method=method, retention=retention, options=options), frames, grid, pool, {}


def own_counts(preset, frames=7, grid=(6, 6), pool="bilinear", newline="one_token", **changes):
    config = AOTConfig.preset(preset, **{"num_anchors": 18, "clip_length": 3, **changes})
    return config, frames, grid, pool, {"newline": torch.arange(WIDTH) / WIDTH, "newline_position": newline}


CASES = {
    **{f"{name} {r}": rival(name, r) for name in ("evs", "dycoke", "vidcom2") for r in (0.05, 0.15, 0.4)},
    **{f"visionzip {r}": rival("visionzip", r) for r in (0.1, 0.4)},
    **{f"{name} {r}": rival(name, r) for name in ("prunevid", "holitom") for r in (0.08, 0.15, 0.5)},
    **{f"{name} {r}": rival(name, r) for name in ("fastvid", "flashvid", "ott_vid") for r in (0.06, 0.2, 0.5)},
    **{f"{name} pooled": rival(name, 0.2, 9, (7, 9), "bilinear") for name in ("visionzip", "fastvid", "ott_vid")},
    **{f"{name} pooled": rival(name, 0.2, 9, (7, 9), "max") for name in ("prunevid", "holitom", "flashvid")},
    **{f"{name} 0.3": rival(name, 0.3, 4, (3, 4)) for name in ("uniform", "frames", "first", "random")},
    **{f"{name} {r}": rival(name, r) for name in ("pool", "floc", "vcast", "unicomp", "stop") for r in (0.06, 0.2)},
    **{name.replace("+", " "): rival(name, 0.1) for name in method_names("tuned")},
    "ott_vid along time": rival("ott_vid", 0.2, temporal_share=0.8),
    "holitom threshold": rival("holitom", 0.2, threshold=0.9, center_weight=0.3, neighbours=3),
    "paper": own_counts("paper"),
    "paper, a lower threshold": own_counts("paper", dynamic_threshold=0.25, inter_scale=0.5),
    "paper, unit mass": own_counts("paper", source_mass="unit", merge_strength=0.5),
    "paper, mass by attention": own_counts("paper", source_mass="attention", pool=None, newlines="row", newline="grid"),
    "paper, frames alone": own_counts("paper", inter_frame=False, clip_length=None, newline="frame"),
    "released": own_counts("released", keep_ratio=0.4),
    "released, grid": own_counts("released", newline="grid", pool="average"),
    "released, dynamic clips": own_counts(
        "released", clips="dynamic", clip_length=None, clip_cuts=3, clip_threshold=0.6
    ),
    "released, eighths": own_counts("released", frames=17, clip_length=None, temporal_sigma=2.5),
}


def make_input(frames, grid):
    """Three scenes; the tokens of a scene keep their place and change at paces from none to much. float32 arrays."""
    random = np.random.RandomState(frames * grid[0])
    tokens = grid[0] * grid[1]
    scenes = random.randn(3, 1, WIDTH) + 1.5 * random.randn(3, tokens, WIDTH)
    pace = random.rand(3, tokens, 1) ** 3
    features, walk = [], np.zeros((tokens, WIDTH))
    for t in range(frames):
        scene = 3 * t // frames
        walk = 0.8 * walk + pace[scene] * random.randn(tokens, WIDTH)
        features.append(scenes[scene] + walk)
    lengths = 2 ** random.uniform(-1, 1, (frames, tokens, 1))
    maps, keys = random.rand(3, frames, tokens) ** 2, random.randn(frames, tokens, 4)
    return [np.asarray(x, dtype=np.float32) for x in (np.array(features) * lengths, *maps, keys)]


def numbers(case):
    """Place and kind of every token, its mass, and the sum of its values along a fixed direction."""
    config, frames, grid, pool, arguments = CASES[case]
    features, shallow, deep, last, keys = map(torch.from_numpy, make_input(frames, grid))
    extras = {"attention_last": last, "keys": keys}
    video = compress(features, shallow, deep, config, grid=grid, pool=pool, extras=extras, **arguments)
    height, width = video.grid
    place = (video.frame * height + video.position[:, 0]) * (width + 1) + video.position[:, 1]
    along = video.tokens.double() @ torch.linspace(-1, 2, WIDTH, dtype=torch.float64)
    return {
        "place": place.tolist(),
        "kind": "".join(map(str, video.kind.tolist())),
        "mass": [round(x, 3) for x in video.mass.tolist()],
        "along": [round(x, 3) for x in along.tolist()],
        "clips": video.clips,
    }


if __name__ == "__main__":
    lines = [f"{json.dumps(case)}: {json.dumps(numbers(case), separators=(',', ':'))}" for case in CASES]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
