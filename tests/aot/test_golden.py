"""The released preset equals the released code's numbers."""

import json
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import torch

from aot import AOTConfig, TokenKind, compress

ROOT = Path(__file__).parents[2]
SMALL = sorted((ROOT / "tests/data/aot").glob("*.npz"))
WHOLE = sorted((ROOT.parent / "shared/golden/aot").glob("*.npz"))


def settings_of(arrays):
    text = str(arrays["settings"])
    return json.loads(text) if '"' in text else literal_eval(text)


def run(arrays, **overrides):
    settings = settings_of(arrays)
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items() if k != "settings"}
    config = AOTConfig.preset(
        "released",
        num_anchors=settings["visual_token_num"],
        global_ratio=settings["global_ratio"],
        keep_ratio=settings["keep_ratio"],
        inter_scale=settings["inter_scale"],
        inter_frame=settings["inter"],
        **overrides,
    )
    video = compress(
        tensors["features"],
        tensors["attention_shallow"],
        tensors["attention_deep"],
        config,
        pool=settings["pool"],
        newline=tensors.get("newline"),
        clips=tensors["segments"].tolist() if "segments" in tensors else None,
        trace=True,
    )
    return video, tensors


def close(value, expected):
    assert value.shape == expected.shape
    scale = expected.abs().max()
    assert (value - expected).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("path", SMALL + WHOLE, ids=lambda path: path.stem)
def test_equals_released_code(path):
    video, expected = run(dict(np.load(path)))
    assert torch.equal(video.trace["anchor_mask"], expected["anchor_mask"])
    assert torch.equal(video.trace["pooled_mask"], expected["pooled_mask"])
    close(video.trace["merged_anchors"].flatten(0, 1), expected["merged_anchors"])
    close(video.trace["pooled"], expected["pooled"])
    close(video.tokens, expected["tokens"])
    newlines = video.kind == TokenKind.NEWLINE
    assert newlines.any() == ("newline" in expected)
    assert bool((video.position[newlines, 1] == video.grid[1]).all())


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.11},
        {"spatial_weight": 0.55},
        {"hard_assignment": 0.101},
        {"tolerance": 1e-5},
        {"merge_strength": 2.0},
    ],
    ids=str,
)
def test_golden_numbers_notice_a_changed_setting(change):
    path = next(path for path in SMALL if "scales" in path.stem)
    video, expected = run(dict(np.load(path)), **change)
    merged = video.trace["merged_anchors"].flatten(0, 1)
    assert (merged - expected["merged_anchors"]).abs().max() > 1e-5 * expected["merged_anchors"].abs().max()


def test_small_copies_are_there():
    stems = " ".join(path.stem for path in SMALL)
    assert all(case in stems for case in ("dynamic", "scales", "inter_grid", "intra_grid"))
