"""FLoC: lazy greedy facility location equals the plain one."""

import numpy as np
import pytest
import torch

from aot import AOTConfig, compress
from aot.registry import get_method


def plain_greedy(features, count):
    """All gains anew in every step, in float64."""
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    likeness = units @ units.T
    covered, kept = np.zeros(len(units)), []
    for _ in range(count):
        gains = np.maximum(likeness - covered[:, None], 0).sum(0)
        gains[kept] = -1
        kept.append(int(gains.argmax()))
        covered = np.maximum(covered, likeness[:, kept[-1]])
    return sorted(kept)


@pytest.mark.parametrize("retention", [0.02, 0.06, 0.1])
def test_it_keeps_what_the_plain_choice_keeps(retention):
    features = torch.randn(6, 20, 8, generator=torch.Generator().manual_seed(1))
    video = compress(features, None, None, AOTConfig(method="floc", retention=retention), pool=None, grid=(4, 5))
    kept = (video.frame * 20 + video.position[:, 0] * 5 + video.position[:, 1]).tolist()
    assert kept == plain_greedy(features.flatten(0, 1).double().numpy(), len(kept))


def test_chunks_of_32_frames_share_the_budget():
    assert get_method("floc").options == {"chunk": 32}
    features = torch.randn(40, 4, 5, generator=torch.Generator().manual_seed(2))
    video = compress(features, None, None, AOTConfig(method="floc", retention=0.1), pool=None)
    kept = (video.frame * 4 + video.position[:, 0] * 2 + video.position[:, 1]).tolist()
    flat = features.flatten(0, 1).double().numpy()
    assert kept == plain_greedy(flat[:128], 12) + [128 + place for place in plain_greedy(flat[128:], 4)]


def test_the_odd_one_is_kept_and_of_equals_the_first():
    features = torch.tensor([[1.0, 0.0]] * 7 + [[0.0, 1.0]]).view(2, 4, 2)
    video = compress(features, None, None, AOTConfig(method="floc", retention=0.25), pool=None)
    assert video.frame.tolist() == [0, 1] and video.position.tolist() == [[0, 0], [1, 1]]
