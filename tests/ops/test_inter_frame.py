"""Inter-frame transport against sums worked out by hand, in plain float64 Python."""

import math

import numpy as np
import pytest
import torch

from aot import AOTConfig
from aot.ops import merge_clips
from aot.ops.inter_frame import masked_quantile


def cosine(a, b):
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def inter_frame_settings(config):
    return {
        "epsilon": config.epsilon,
        "iterations": config.iterations,
        "stop": "never",
        "tolerance": config.tolerance,
        "temporal_sigma": config.temporal_sigma,
        "keep_ratio": config.keep_ratio,
        "threshold": config.dynamic_threshold,
        "strength": config.inter_scale,
        "cap": config.merge_cap,
    }


def test_inter_frame_merge_by_hand():
    """Two anchors, then two frames of three tokens; quantile rule; float64 recomputation."""
    first = np.array([[1.0, 0.1], [0.0, 1.0]])
    frames = [
        np.array([[0.9, 0.3], [0.5, 0.6], [0.1, 0.8]]),
        np.array([[0.2, 1.0], [1.0, 0.4], [0.6, 0.7]]),
    ]
    config = AOTConfig.preset(
        "released", num_anchors=2, sinkhorn_stop="never", iterations=200, keep_ratio=0.4, inter_scale=0.7
    )
    tokens = torch.tensor(np.stack([np.vstack([first, [[5.0, 5.0]]]), *frames]), dtype=torch.float32)
    present = torch.ones(1, 3, 3, dtype=torch.bool)
    present[0, 0, 2] = False  # padding, whatever lies there
    chain = merge_clips(tokens[None], present, present.float(), **inter_frame_settings(config))
    anchors, merged = first, 0
    for step, frame in enumerate(frames, start=1):
        cost = np.array([[1 - cosine(x, y) for y in anchors] for x in frame])
        cost = (cost - cost.min()) * (1 - math.exp(-(step**2) / (2 * 1.5**2)))
        kernel, column = np.exp(-cost / 0.1), np.ones(2)
        for _ in range(500):
            row = (1 / 3) / (kernel @ column)
            column = (1 / 2) / (row @ kernel)
        plan = row[:, None] * kernel * column
        plan /= plan.sum(1, keepdims=True)
        certain = plan.max(1)
        apart = certain < np.quantile(certain, 0.4)
        assert chain.dynamic[0, step].tolist() == apart.tolist()
        assert apart.sum() == 1
        plan, frame = plan[~apart], frame[~apart]
        merged += len(frame)
        anchors = (anchors + 0.7 * plan.T @ frame) / (1 + 0.7 * plan.sum(0))[:, None]
    np.testing.assert_allclose(chain.anchors[0, :2].double().numpy(), anchors, rtol=1e-4)
    assert float(chain.mass.sum()) == pytest.approx(2 + merged, rel=1e-5)


def test_a_frame_without_anchors_keeps_later_tokens_apart():
    tokens, present = torch.randn(1, 2, 3, 4), torch.tensor([[[False] * 3, [True] * 3]])
    chain = merge_clips(tokens, present, torch.ones(1, 2, 3), **inter_frame_settings(AOTConfig.preset("released")))
    assert chain.dynamic[0, 1].all() and chain.anchors.isfinite().all()


def test_masked_quantile_equals_torch():
    values = torch.rand(3, 9)
    valid = torch.arange(9) < torch.tensor([[9], [4], [1]])
    for ratio in (0.0, 0.1, 0.3, 0.77, 1.0):
        result = masked_quantile(values, valid, ratio)
        for i, n in enumerate((9, 4, 1)):
            assert float(result[i]) == pytest.approx(float(values[i, :n].double().quantile(ratio)), abs=1e-12)


@pytest.mark.parametrize("stop", ["change", "marginal", "never"])
def test_what_stands_in_padding_changes_nothing(stop):
    """Even where it is an anchor once more, whose cost of 0 is less than that of any token."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 4, 7, 5, generator=generator)
    present = torch.rand(3, 4, 7, generator=generator) < 0.6
    mass = torch.rand(3, 4, 7, generator=generator) * present
    other = torch.where(present.unsqueeze(-1), tokens, tokens[:, :1, present[0, 0].int().argmax().item()].unsqueeze(1))
    settings = inter_frame_settings(AOTConfig.preset("released", num_anchors=2)) | {"stop": stop, "iterations": 7}
    one, two = (merge_clips(values, present, mass, **settings) for values in (tokens, other))
    assert torch.equal(one.dynamic, two.dynamic) and torch.equal(one.mass, two.mass)
    assert torch.equal(one.anchors[present[:, 0]], two.anchors[present[:, 0]])
