"""Rows that go with the tokens: tokens themselves, as rows, become what the method makes of them."""

import pytest
import torch

import aot
from aot.compress import compress
from aot.deepstack import merge_deepstack


def video(frames: int = 11, side: int = 6, width: int = 8):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(frames, side * side, width, generator=generator)
    importance = torch.rand(2, frames, side * side, generator=generator)
    return features, *importance


@pytest.mark.parametrize(
    "settings", [{}, {"uniform_marginal": 0.5}, {"clip_length": 11}, {"merge_cap": 0.2}, {"epsilon": 1.0}]
)
@pytest.mark.parametrize("retention", [0.05, 0.3])
def test_tokens_as_rows_are_merged_as_the_tokens(settings, retention):
    features, shallow, deep = video()
    config = aot.AOTConfig(retention=retention, **settings)
    found = compress(features, shallow, deep, config, pool=None, trace=True)
    rows = features.flatten(0, 1)
    torch.testing.assert_close(merge_deepstack(found, rows), found.tokens, rtol=1e-5, atol=1e-6)
    twice = merge_deepstack(found, torch.cat([rows, 2 * rows], dim=1))
    torch.testing.assert_close(twice[:, rows.shape[1] :], 2 * found.tokens, rtol=1e-5, atol=1e-6)
    assert not torch.equal(
        merge_deepstack(found, rows), rows[(found.frame * 36 + found.position @ torch.tensor([6, 1]))]
    )


@pytest.mark.parametrize("settings", [{"merge_strength": 0.0}, {"retention": 1.0}, {"method": "random"}])
def test_rows_stay_where_nothing_is_merged(settings):
    features, shallow, deep = video()
    found = compress(features, shallow, deep, aot.AOTConfig(**{"retention": 0.2, **settings}), pool=None, trace=True)
    assert torch.equal(merge_deepstack(found, features.flatten(0, 1)), found.tokens)


def test_groups_of_clips_and_low_precision(monkeypatch):
    monkeypatch.setattr(aot.methods.aot, "COST_BYTES", 4 * (4 * 36) ** 2)  # a clip at a time
    features, shallow, deep = video()
    found = compress(features, shallow, deep, aot.AOTConfig(retention=0.1), pool=None, trace=True)
    torch.testing.assert_close(merge_deepstack(found, features.flatten(0, 1)), found.tokens, rtol=1e-5, atol=1e-6)
    assert merge_deepstack(found, features.flatten(0, 1).bfloat16()).dtype == torch.bfloat16


def test_the_callers_autocast_changes_no_row():
    features, shallow, deep = video()
    found = compress(features, shallow, deep, aot.AOTConfig(retention=0.1), pool=None, trace=True)
    plain = merge_deepstack(found, features.flatten(0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(merge_deepstack(found, features.flatten(0, 1)), plain)
