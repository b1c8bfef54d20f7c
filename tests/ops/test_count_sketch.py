"""Sketches keep distances on average, and narrow tokens as they are."""

import pytest
import torch

from aot import AOTConfig, compress
from aot.ops import count_sketch
from aot.ops.count_sketch import signs


def test_by_hand():
    sign = signs(5, torch.device("cpu"))
    token = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    expected = [sign[0] + 3 * sign[2] + 5 * sign[4], 2 * sign[1] + 4 * sign[3]]
    assert count_sketch(token, 2)[0].tolist() == [float(x) for x in expected]


def test_signs_are_those_of_the_published_hash():
    """fmix32 of 1 is 0x514E28B7, of 2 0x30F4C306 and of 3 0x85F0B427: odd, even, odd."""
    assert signs(3, torch.device("cpu")).tolist() == [-1, 1, -1]


def test_signs_are_even_and_unlike_between_rows():
    sign = signs(3584, torch.device("cpu"))
    assert set(sign.tolist()) == {-1.0, 1.0} and abs(float(sign.mean())) < 4 / 3584**0.5
    likeness = sign.view(7, 512) @ sign.view(7, 512).T / 512
    assert float((likeness - torch.eye(7)).abs().max()) < 4.5 / 512**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_squared_distances_are_off_by_a_sixteenth(dtype):
    """512 channels: a standard deviation of √(2/512) = 1/16, of near tokens as of far ones; the mean is kept."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(60, 3584, generator=generator)
    for apart in (0.03, 1.0):
        near = base + apart * torch.randn(60, 3584, generator=generator)
        left, right = base.to(dtype), near.to(dtype)
        exact = (left.double() - right.double()).square().sum(-1)
        found = (count_sketch(left, 512).double() - count_sketch(right, 512).double()).square().sum(-1)
        error = found / exact - 1
        # 60 samples: the mean within four of its standard deviations, and the spread within a third of 1/16
        assert abs(float(error.mean())) < 4 / 16 / 60**0.5 and 0.67 / 16 < float(error.std()) < 1.33 / 16


def test_wide_tokens_are_compared_by_sketches():
    """The choice is that of narrow tokens that are the sketches; what is emitted is the tokens' own."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(1, 16, 40, generator=generator) + 0.4 * torch.randn(6, 16, 40, generator=generator)
    shallow, deep = torch.rand(2, 6, 16, generator=generator)
    config = AOTConfig(cost_channels=10, merge_strength=0, retention=0.2)
    found = compress(features, shallow, deep, config, pool=None)
    plain = compress(count_sketch(features, 10), shallow, deep, config, pool=None)
    assert torch.equal(found.frame, plain.frame) and torch.equal(found.position, plain.position)
    index = found.frame * 16 + found.position[:, 0] * 4 + found.position[:, 1]
    assert torch.equal(found.tokens, features.flatten(0, 1)[index])
