"""V-CAST: budgets by curvature, outliers in each frame."""

import math

import numpy as np
import pytest
import torch

from aot import AOTConfig, AOTError, compress
from aot.methods.vcast import curvature
from aot.registry import get_method


def test_curvature_by_hand():
    """A path that goes straight on, turns by 90 degrees, comes back, and stands still."""
    means = torch.tensor([[0.0, 0], [1, 0], [2, 0], [2, 1], [2, 0], [2, 0]])
    assert curvature(means).tolist() == pytest.approx([1, 0, 1, 2, 1, 1])
    assert curvature(means[:1]).tolist() == [1] and curvature(means[:2]).tolist() == [1, 1]


@pytest.mark.parametrize("retention", [0.08, 0.25, 0.6])
def test_it_keeps_what_the_paper_says(retention):
    """The published rule in float64, frame by frame; no frame is asked for more than it has."""
    features = torch.randn(7, 24, 6, generator=torch.Generator().manual_seed(4))
    config = AOTConfig(method="vcast", retention=retention)
    video = compress(features, None, None, config, pool=None, grid=(4, 6))
    tokens = features.double().numpy()
    means = tokens.mean(1) / np.linalg.norm(tokens.mean(1), axis=1, keepdims=True)
    curved = [1.0]
    for before, now, after in zip(means, means[1:], means[2:], strict=False):
        a, b = now - before, after - now
        curved.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    weights = np.exp(np.array([*curved, 1.0]) / 0.7)
    wanted = 1 + weights / weights.sum() * (config.budget(7, 24) - 7)
    counts = np.floor(wanted).astype(int)
    for frame in np.argsort(-(wanted - counts), kind="stable")[: config.budget(7, 24) - counts.sum()]:
        counts[frame] += 1
    assert video.frame.bincount(minlength=7).tolist() == counts.tolist() and counts.max() <= 24
    for frame, count in enumerate(counts):
        length = np.linalg.norm(tokens[frame], axis=1)
        score = 1 - tokens[frame] @ means[frame] / length + (length - length.min()) / (length.max() - length.min())
        kept = video.position[video.frame == frame]
        assert (kept[:, 0] * 6 + kept[:, 1]).tolist() == sorted(np.argsort(-score)[:count])


def test_fewer_tokens_than_frames_go_to_the_bends():
    angles = [0, 1, 2, 3, 60, 3, 2, 1]  # straight on but at the jump to 60 degrees and back
    features = torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles]).view(8, 1, 2)
    video = compress(features.expand(8, 4, 2), None, None, AOTConfig(method="vcast", retention=0.04), pool=None)
    assert video.frame.tolist() == [4]


def test_published_temperature():
    assert get_method("vcast").options == {"temperature": 0.7}
    with pytest.raises(AOTError, match="option temperature"):
        AOTConfig(method="vcast", options={"temperature": 0})
