"""The plain version of the released way of working, which benchmarks compare with, gives the preset's results."""

import pytest
import torch

from aot import AOTConfig, compress
from benchmarks.plain_released import plain_released


@pytest.mark.parametrize("clips", [[3, 3], [4, 1, 1]])
def test_plain_version_equals_the_preset(clips):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 144, 24, generator=generator) + 0.5 * torch.randn(6, 144, 24, generator=generator)
    maps = [torch.randn(6, 2, 144, 144, generator=generator).softmax(-1) for _ in range(4)]
    config = AOTConfig.preset("released", num_anchors=40, keep_ratio=0.3)
    plain = plain_released(features, maps, (1, 2), config, grid=(12, 12), pool="bilinear", clips=clips)
    shallow, deep = (maps[layer].mean(1).sum(1) for layer in (1, 2))
    preset = compress(features, shallow, deep, config, pool="bilinear", clips=clips)
    assert plain.shape == preset.tokens.shape
    torch.testing.assert_close(plain, preset.tokens, rtol=1e-4, atol=1e-5)
