"""The steps of the paper's order against sums worked out by hand, in plain float64 Python."""

import math

import numpy as np
import pytest
import torch

from aot import AOTConfig, AOTError, TokenKind, compress
from aot.clips import window_ids
from aot.methods.aot_paper import choose_anchors, intra_frame

FRAME = np.array([[1.0, 0.2, 0.0], [0.3, 1.0, 0.1], [0.9, 0.5, 0.3], [0.1, 0.8, 0.6]])


def cosine(a, b):
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def by_hand(features, anchors, *, weight, strength):
    """One frame of 2x2 tokens: Sinkhorn to the end, unit suppliers, (a + λ Σ T u) / (1 + λ m)."""
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    others = [i for i in range(4) if i not in anchors]
    cost = [
        [1 - cosine(features[i], features[j]) + weight * math.dist(places[i], places[j]) for j in anchors]
        for i in others
    ]
    kernel = np.exp(-np.array(cost) / 0.1)
    column = np.ones(2)
    for _ in range(500):
        row = 1 / (kernel @ column)
        column = 1 / (row @ kernel)
    plan = row[:, None] * kernel * column
    merged = []
    for j, anchor in enumerate(anchors):
        carried = sum(plan[i, j] * features[other] for i, other in enumerate(others))
        merged.append((features[anchor] + strength * carried) / (1 + strength * plan[:, j].sum()))
    return np.array(merged)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_intra_frame_merge_by_hand(strength):
    def run(value):
        config = AOTConfig.preset(
            "paper",
            num_anchors=2,
            source_mass="unit",
            spatial_weight=0.5,
            merge_strength=value,
            iterations=300,
        )
        features = torch.tensor(FRAME, dtype=torch.float32)[None]
        return intra_frame(features, torch.tensor([[0, 3]]), (2, 2), config, torch.ones(1, 4))[0][0].double().numpy()

    expected = by_hand(FRAME, [0, 3], weight=0.5, strength=strength)
    np.testing.assert_allclose(run(strength), expected, rtol=1e-4)
    # a merge weight that is wrong by 1 % is far outside that tolerance
    assert np.abs(run(1.01 * strength) / expected - 1).max() > 5e-4


def test_permuting_non_anchors_changes_nothing_in_the_paper_preset(make_video):
    features = make_video(2, (6, 6), 8)[0]
    config = AOTConfig.preset("paper", num_anchors=9)
    anchor = torch.tensor([[0, 5, 9, 14, 20, 21, 28, 30, 35]] * 2)
    free = [i for i in range(36) if i not in anchor[0].tolist()]
    order = torch.arange(36)
    order[free] = torch.tensor(free[::-1])
    merged = intra_frame(features, anchor, (6, 6), config, torch.ones(2, 36))[0]
    moved = intra_frame(features[:, order], anchor, (6, 6), config, torch.ones(2, 36))[0]
    torch.testing.assert_close(moved, merged, rtol=1e-5, atol=1e-6)


def test_suppliers_share_the_mass_by_importance():
    """Rows of the plan are importance over its mean among the suppliers, so the total stays their count."""
    config = AOTConfig.preset("paper", num_anchors=2, source_mass="attention", iterations=300)
    importance = torch.tensor([[9.0, 1.0, 3.0, 5.0]])
    features = torch.tensor(FRAME, dtype=torch.float32)[None]
    plan = intra_frame(features, torch.tensor([[0, 3]]), (2, 2), config, importance)[1]
    torch.testing.assert_close(plan[0].sum(1), torch.tensor([0.0, 0.5, 1.5, 0.0]), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(plan[0].sum(0), torch.tensor([1.0, 1.0]), rtol=1e-3, atol=1e-6)


def test_anchor_counts_of_the_release():
    scores = torch.rand(2, 4, 729)
    windows = window_ids((27, 27))
    for budget, expected in ((196, 90 + 98), (205, 99 + 103), (126, 63 + 63)):
        local = budget // 2
        masks = choose_anchors(local // 9, budget - local, scores[0], scores[1], windows)
        assert not (masks[0] & masks[1]).any()
        assert (masks[0] | masks[1]).sum(1).tolist() == [expected] * 4
        per_window = torch.stack([masks[0][:, windows == w].sum(1) for w in range(9)])
        assert bool((per_window == (budget // 2) // 9).all())


def test_released_newlines_in_frame_mode_close_each_frame(make_video):
    config = AOTConfig.preset("released", num_anchors=18, clip_length=2, keep_ratio=0.5)
    newline = torch.full((8,), 9.0)
    video = compress(*make_video(4, (6, 6), 8), config, pool=None, newline=newline, newline_position="frame")
    newlines = video.kind == TokenKind.NEWLINE
    assert int(newlines.sum()) == 4 and bool(newlines[-1])
    assert bool((video.tokens[newlines] == 9).all())


@pytest.mark.parametrize("newline", [None, torch.ones(8)])
def test_anchors_of_which_none_survives_the_pooling_are_refused(make_video, newline):
    """Newlines are no visual tokens: they alone are no answer."""
    features, shallow, deep = make_video(16, (8, 8), 8)
    config = AOTConfig.preset("released", num_anchors=3)
    with pytest.raises(AOTError, match="No token survives the pooling with num_anchors=3"):
        compress(features, shallow, deep, config, newline=newline)
