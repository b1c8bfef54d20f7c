"""The default equals a float64 version that was written from docs/method.md alone."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from aot import AOTConfig, TokenKind, compress
from tests.aot.reference_default import Settings, reduce_video

# frames, tower grid, pooling, settings that differ from the default
CASES = [
    (1, (1, 7), None, {}),
    (1, (6, 6), "bilinear", {"retention": 0.5}),
    (1, (14, 14), None, {"retention": 0.25}),
    (2, (3, 5), None, {"retention": 0.3}),
    (2, (5, 9), "max", {"retention": 0.4}),
    (5, (3, 5), "bilinear", {"retention": 0.2}),
    (5, (6, 6), None, {}),
    (5, (14, 14), "bilinear", {"retention": 0.3}),
    (5, (27, 27), "bilinear", {"retention": 0.03}),
    (4, (27, 27), "average", {"retention": 0.05}),
    (3, (28, 28), "max", {"retention": 0.02}),
    (17, (6, 6), None, {}),
    (17, (6, 6), "average", {"retention": 0.4}),
    (17, (3, 5), None, {"retention": 0.01}),
    (17, (1, 7), None, {"retention": 0.05}),
    (17, (4, 4), None, {"retention": 0.6}),
    (9, (7, 6), None, {"retention": 0.9}),
    (1, (13, 11), None, {"retention": 0.97}),  # steps that find none of their tokens free
    (4, (13, 11), None, {"retention": 0.98, "global_ratio": 0.3}),
    (6, (6, 6), "bilinear", {"retention": 1}),
    (8, (12, 10), "max", {"retention": 0.35}),
    (3, (30, 30), None, {"retention": 0.01}),  # 900 tokens are more than 800: clips of one frame
    (9, (6, 6), None, {"clip_length": 1}),
    (9, (6, 6), None, {"clip_length": 2, "retention": 0.25}),
    (9, (6, 6), None, {"clip_length": 8, "retention": 0.3}),
    (9, (14, 14), None, {"clip_length": 2, "retention": 0.02}),
    (9, (4, 4), None, {"clips": "dynamic", "clip_threshold": 0.5, "clip_cuts": 4}),
    (9, (4, 4), None, {"clips": "dynamic", "clip_threshold": 0.9, "clip_cuts": 2, "clip_length": 3}),
    (8, (6, 6), None, {"clips": "dynamic", "clip_threshold": 0.2, "clip_cuts": 1, "retention": 0.2}),
    (8, (6, 6), None, {"global_ratio": 0.0, "retention": 0.3}),
    (8, (6, 6), None, {"global_ratio": 0.5, "retention": 0.3}),
    (8, (7, 5), None, {"global_ratio": 0.2, "retention": 0.45}),
    (4, (2, 5), None, {"global_ratio": 0.0, "retention": 0.8}),
    (8, (6, 6), None, {"attention_power": 0.5}),
    (5, (14, 14), "bilinear", {"attention_power": 0.5, "change_power": 0.5, "retention": 0.3}),
    (8, (7, 5), None, {"attention_power": 0.5, "global_ratio": 0.2, "retention": 0.45}),
    (8, (6, 6), None, {"attention_power": 2.0, "retention": 0.3}),
    (8, (6, 6), None, {"change_power": 0.0}),
    (8, (6, 6), None, {"change_power": 1.5, "retention": 0.3}),
    (8, (6, 6), None, {"spatial_weight": 0.0}),
    (8, (5, 7), None, {"spatial_weight": 1.5, "retention": 0.2}),
    (8, (6, 6), None, {"temporal_weight": 0.0}),
    (8, (6, 6), None, {"temporal_weight": 0.7, "retention": 0.2}),
    (8, (6, 6), None, {"spatial_weight": 0.0, "temporal_weight": 0.0, "retention": 0.2}),
    (8, (6, 6), None, {"cost_channels": 8}),
    (8, (5, 7), None, {"cost_channels": 5, "retention": 0.2}),  # 16 channels in rows of 5, 5, 5 and 1
    (5, (6, 6), "bilinear", {"cost_channels": 9, "retention": 0.2}),  # too few channels to be worth it: as they are
    (8, (6, 6), None, {"epsilon": 0.1}),
    (8, (6, 6), None, {"epsilon": 0.3, "merge_cap": 1.0}),
    (8, (6, 6), None, {"merge_strength": 0.2, "retention": 0.4}),
    (8, (6, 6), None, {"merge_strength": 0.0}),
    (8, (6, 6), None, {"merge_cap": 0.8}),
    (8, (6, 6), None, {"uniform_marginal": 1.0, "epsilon": 0.2, "retention": 0.2}),
    (8, (6, 6), None, {"uniform_marginal": 0.5, "epsilon": 0.3}),
    (7, (6, 6), None, {"uniform_marginal": 0.5, "epsilon": 0.1, "tolerance": 0.1, "retention": 0.2}),
    (7, (6, 6), None, {"uniform_marginal": 0.3, "epsilon": 0.2, "iterations": 3, "retention": 0.2}),
    (7, (6, 6), None, {"uniform_marginal": 0.3, "epsilon": 0.2, "iterations": 12, "sinkhorn_stop": "never"}),
    (5, (6, 6), None, {"uniform_marginal": 0.4, "retention": 0.3}),  # on logarithms
]


def make_input(frames, grid, seed):
    """Features (T, N, 16) whose frames resemble each other, of lengths from 0.2 to 5; two uneven importance maps."""
    generator = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1]
    base, drift = torch.randn(1, tokens, 16, generator=generator), torch.randn(frames, tokens, 16, generator=generator)
    speed = torch.rand(frames, tokens, 1, generator=generator) ** 3
    lengths = 5 ** (2 * torch.rand(frames, tokens, 1, generator=generator) - 1)
    maps = torch.rand(2, frames, tokens, generator=generator) ** 3
    return (base + speed * drift) * lengths, *maps


def check(features, shallow, deep, changes, *, grid, pool):
    video = compress(features, shallow, deep, AOTConfig(**changes), grid=grid, pool=pool)
    expected = reduce_video(features, shallow, deep, Settings(**changes), grid=grid, pool=pool)
    height, width = video.grid
    index = (video.frame * height + video.position[:, 0]) * width + video.position[:, 1]
    assert index.tolist() == expected.index.tolist()
    assert (video.kind == TokenKind.LOCAL).tolist() == expected.local.tolist()
    assert bool(((video.kind == TokenKind.LOCAL) | (video.kind == TokenKind.GLOBAL)).all())
    assert video.clips == expected.clips
    # a cost is a sum of numbers of about 1 in float32 and off by some 1e-7, which exp(-cost/ε) makes 1e-7/ε
    precision = 2e-6 / AOTConfig(**changes).epsilon
    np.testing.assert_allclose(video.mass.numpy(), expected.mass, rtol=precision, atol=0)
    scale = np.abs(expected.tokens).max()
    np.testing.assert_allclose(video.tokens.numpy(), expected.tokens, rtol=0, atol=precision * scale)
    return video


@pytest.mark.parametrize("number", range(len(CASES)))
def test_equals_the_page(number):
    frames, grid, pool, changes = CASES[number]
    check(*make_input(frames, grid, number), changes, grid=grid, pool=pool)


@pytest.mark.parametrize(("weight", "order"), [([1, 3, 2, 2], [1, 2, 3, 0]), ([2, 2, 2, 2], [0, 2, 1, 3])])
def test_of_equal_gains_the_heavier_token_goes_first(weight, order):
    """Two looks of two tokens each, costs of exactly 0 or 1 and dyadic weights: a look gains 6, then 2."""
    features = torch.nn.functional.one_hot(torch.tensor([[0, 0, 1, 1]] * 3), 5).float()
    attention = torch.tensor([weight] * 3) / 4
    changes = {"spatial_weight": 0.0, "temporal_weight": 0.0, "change_power": 0.0, "attention_power": 1.0}
    for count in (1, 2, 3):
        more = {**changes, "retention": count / 4, "global_ratio": 1.0, "clip_length": 1}
        video = check(features, attention, attention, more, grid=(2, 2), pool=None)
        assert (video.position[:count, 0] * 2 + video.position[:count, 1]).tolist() == sorted(order[:count])


STRANGE = {
    "a still video": lambda x, s, d: (x[:1].repeat(6, 1, 1), s, d),
    "a frame of zeros": lambda x, s, d: (x * (torch.arange(6) != 2).view(-1, 1, 1), s, d),
    "zeros at the start": lambda x, s, d: (x * (torch.arange(6) > 0).view(-1, 1, 1), s, d),
    "a frame without attention": lambda x, s, d: (x, s * (torch.arange(6) != 1).view(-1, 1), d * 0),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("changes", [{}, {"retention": 0.35}, {"clip_length": 6, "retention": 0.25}], ids=str)
@pytest.mark.parametrize("attention_power", [0.0, 0.5])
def test_equals_the_page_on_strange_input(kind, changes, attention_power):
    tied = [("a still video", 0.35), ("a still video", 0.25), ("zeros at the start", 0.25)]
    if (kind, changes.get("retention")) in tied:
        attention_power = 0.5  # without it two gains are equal to the last bit, and rounding tells them apart
    changes = {**changes, "attention_power": attention_power}
    check(*STRANGE[kind](*make_input(6, (6, 6), 3)), changes, grid=(6, 6), pool=None)


def test_the_settings_of_the_page_are_the_defaults():
    config = AOTConfig()
    assert {name: getattr(config, name) for name in asdict(Settings())} == asdict(Settings())
