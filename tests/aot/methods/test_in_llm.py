"""Counts of the methods that act inside the language model."""

import json

import numpy as np
import pytest
import torch

from aot import AOTConfig, AOTError, compress
from aot.methods.in_llm import Stage, prune_stages, quarters, seen_by_layer


def stages(method, retention, visual, layers, **options):
    return prune_stages(AOTConfig(method=method, retention=retention, options=options), visual, layers)


def test_published_settings():
    assert stages("fastv", 0.5, 576, 32, counts="last") == (Stage(2, 1, 288),)
    wanted = (Stage(8, 8, 288), Stage(16, 16, 144), Stage(24, 24, 72))
    assert stages("pdrop", 0.125, 576, 32, counts="last") == wanted
    seen = seen_by_layer(wanted, 576, 32)
    assert sum(seen) / (32 * 576) == pytest.approx((1 + 0.5 + 0.25 + 0.125) / 4)
    # asked as that layer average they come out again
    assert stages("pdrop", 0.46875, 576, 32) == wanted
    # FastV: 2 of 32 layers whole, 30 at 1/2
    assert stages("fastv", (2 + 15) / 32, 576, 32) == (Stage(2, 1, 288),)


@pytest.mark.parametrize("method", ["fastv", "pdrop"])
@pytest.mark.parametrize("layers", [4, 6, 24, 28])
def test_the_average_is_met_from_below(method, layers):
    for visual in (1, 5, 57, 627):
        for retention in (0.35, 0.4, 0.55, 0.7, 0.95, 1.0):
            try:
                drops = stages(method, retention, visual, layers)
            except AOTError:
                assert method == "fastv" and layers < 6 or visual == 1 or retention * visual < 3
                continue
            seen = seen_by_layer(drops, visual, layers)
            spare = retention * visual * layers - sum(seen)
            assert -1e-6 < spare <= len(seen) + 1 and min(seen) >= 1
            assert seen == sorted(seen, reverse=True)


def test_what_cannot_be_had_is_one_sentence():
    with pytest.raises(AOTError, match=r"2 of 6 layers.*at least 33.* counts='last'"):
        stages("fastv", 0.1, 576, 6)
    assert stages("fastv", 0.2, 576, 6, layer=1) == (Stage(1, 0, 23),)  # (691 - 576) // 5
    with pytest.raises(AOTError, match="layer average"):
        stages("pdrop", 0.25, 576, 32)
    with pytest.raises(AOTError, match="2 layers"):
        stages("fastv", 0.5, 576, 2)
    with pytest.raises(AOTError, match="1 layers"):
        stages("pdrop", 0.5, 576, 1)
    for method in ("fastv", "pdrop"):
        with pytest.raises(AOTError, match="inside the language model"):
            compress(torch.zeros(2, 4, 3), None, None, AOTConfig(method=method))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("fastv", {"layer": 0}, "layer"),
        ("fastv", {"layer": 1.5}, "whole number"),
        ("fastv", {"counts": "first"}, "counts"),
        ("pdrop", {"layers": 8}, "list"),
        ("pdrop", {"layers": []}, "list"),
        ("pdrop", {"layers": [8, 4]}, "ascending"),
        ("pdrop", {"layers": [4, 4]}, "ascending"),
        ("pdrop", {"layer": 2}, "no option"),
    ],
)
def test_bad_options_are_one_sentence(method, options, message):
    with pytest.raises(AOTError, match=message):
        AOTConfig(method=method, options=options)


def test_quarters():
    assert quarters(32) == [8, 16, 24] and quarters(28) == [7, 14, 21] and quarters(6) == [1, 3, 4]
    assert quarters(2) == [1] and quarters(1) == []


def test_depths_of_numpy_are_written_as_plain_numbers():
    config = AOTConfig(method="pdrop", options={"layers": (np.int64(2), 4)})
    assert AOTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
