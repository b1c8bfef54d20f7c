"""UniComp: groups of frames, shares, uncovered tokens, against the published rules in plain loops."""

import math

import numpy as np
import pytest
import torch

from aot import AOTConfig, AOTError, compress
from aot.methods.unicomp import frame_groups, group_shares
from aot.registry import get_method


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def reference(features, keys, budget, retention, frame_threshold, token_threshold):
    """{(first frame, place): token} of what the published rules keep, without the tokens that fill the budget up."""
    means = features.mean(1)
    groups = [[0]]
    for frame in range(1, len(features)):
        last = groups[-1]
        if 1 - cosine(means[frame], means[last[0]]) <= frame_threshold and len(last) < int(1 / retention):
            last.append(frame)
        else:
            groups.append([frame])
    alike = np.array([[cosine(means[a[0]], means[b[0]]) for b in groups] for a in groups])
    shares = group_shares(alike.tolist(), budget, features.shape[1])
    orders, fused = [], []
    for group in groups:
        unit = keys[group[0]] / np.linalg.norm(keys[group[0]], axis=1, keepdims=True)
        likeness, mean = unit @ unit.T, features[group].mean(0)
        covered, order = set(), []
        for token in np.argsort(likeness.mean(1), kind="stable"):
            if token not in covered:
                order.append(int(token))
                covered |= set(np.flatnonzero(1 - likeness[token] < token_threshold))
        orders.append(order)
        fused.append({t: (mean[t] + mean[1 - likeness[t] < token_threshold].mean(0)) / 2 for t in order})
    kept = {}
    for group, order, share, tokens in zip(groups, orders, shares, fused, strict=True):
        kept |= {(group[0], token): tokens[token] for token in order[:share]}
    return kept


@pytest.mark.parametrize(("retention", "reach"), [(0.1, 0.2), (0.2, 0.2), (0.4, 0.02)])
def test_it_keeps_what_the_published_rules_keep(retention, reach):
    random = np.random.RandomState(3)
    scene = random.randn(3, 1, 30, 12)
    features = (scene + 0.02 * random.randn(3, 4, 30, 12) * np.arange(4).reshape(1, 4, 1, 1)).reshape(12, 30, 12)
    keys = random.randn(12, 30, 3)
    config = AOTConfig(
        method="unicomp", retention=retention, options={"token_threshold": reach, "frame_threshold": 0.005}
    )
    video = compress(
        torch.from_numpy(features).float(), None, None, config, pool=None, grid=(5, 6),
        extras={"keys": torch.from_numpy(keys).float()},
    )  # fmt: skip
    expected = reference(features, keys, config.budget(12, 30), retention, 0.005, reach)
    place = zip(video.frame.tolist(), (video.position[:, 0] * 6 + video.position[:, 1]).tolist(), strict=True)
    found = dict(zip(place, video.tokens.double().numpy(), strict=True))
    assert set(expected) <= set(found) and len(found) == config.budget(12, 30)
    for key, token in expected.items():
        np.testing.assert_allclose(found[key], token, atol=1e-5)


def test_groups_end_at_a_change_and_at_their_longest():
    alike = [[1.0 if a < 5 and b < 5 or a >= 5 and b >= 5 else 0.9 for b in range(7)] for a in range(7)]
    assert frame_groups(alike, 0.995, 10) == [5, 2]
    assert frame_groups(alike, 0.995, 2) == [2, 2, 1, 2]
    assert frame_groups(alike, 0.5, 10) == [7] and frame_groups([[1.0]], 0.995, 1) == [1]


def test_shares_by_hand():
    """Three groups, the last one unlike the others: means .7, .7 and .467."""
    alike = [[1.0, 0.9, 0.2], [0.9, 1.0, 0.2], [0.2, 0.2, 1.0]]
    parts = [math.exp(3**0.5 * -own) for own in (0.7, 0.7, 1.4 / 3)]
    floors = [math.floor(30 * part / sum(parts)) for part in parts]
    assert floors == [8, 8, 12] and group_shares(alike, 30, 100) == floors  # two are left, less than one each
    assert group_shares(alike, 30, 11) == [9, 9, 11]  # three above the most go to the others, one each, and one stays
    assert group_shares([[1.0] * 4] * 4, 3, 9) == [0, 0, 0, 0]  # less than one each: order alone decides


def test_published_thresholds():
    assert get_method("unicomp").options == {"frame_threshold": 0.005, "token_threshold": 0.2}
    with pytest.raises(AOTError, match="option token_threshold"):
        AOTConfig(method="unicomp", options={"token_threshold": 0})


def test_masses_count_covered_tokens_and_averaged_frames():
    """Four equal frames of three tokens, the first two of like keys: of two kept tokens one stands for two places."""
    features = torch.eye(3).expand(4, 3, 3)
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]).expand(4, 3, 2)
    config = AOTConfig(method="unicomp", retention=0.17)
    video = compress(features, None, None, config, pool=None, grid=(1, 3), extras={"keys": keys})
    assert video.frame.tolist() == [0, 0] and video.position[:, 1].tolist() == [0, 2]
    assert video.mass.tolist() == [8.0, 4.0]
    # itself, and the mean of itself and the one it covers
    torch.testing.assert_close(video.tokens, torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]))


def test_averaged_frames_that_fit_stay_whole():
    """Ten equal frames at a tenth: one group, as many tokens as the budget, and nothing is merged in it."""
    frame = torch.randn(1, 6, 4)
    config, keys = AOTConfig(method="unicomp", retention=0.1), torch.ones(10, 6, 2)
    video = compress(frame.expand(10, 6, 4), None, None, config, pool=None, grid=(2, 3), extras={"keys": keys})
    torch.testing.assert_close(video.tokens, frame[0])
    assert video.mass.tolist() == [10.0] * 6 and video.clips == [10]
