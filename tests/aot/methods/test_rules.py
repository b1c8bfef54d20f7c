"""Rules of other methods in plain float64 numpy, written from what their papers state, against the code."""

import numpy as np
import pytest
import torch

from aot import AOTConfig, TokenKind, compress
from tests.aot.pins import make_input

FRAMES, GRID, PER_FRAME = 12, (5, 6), 30


def chosen(method, retention, *, kind=None, **extras):
    """Flat indices that a method keeps of the seeded video, those of a kind alone where one is named."""
    features = torch.from_numpy(make_input(FRAMES, GRID)[0])
    extras = {name: torch.from_numpy(value) for name, value in extras.items()}
    config = AOTConfig(method=method, retention=retention)
    video = compress(features, None, None, config, grid=GRID, pool=None, extras=extras)
    index = video.frame * PER_FRAME + video.position[:, 0] * GRID[1] + video.position[:, 1]
    return index.tolist() if kind is None else index[video.kind == kind].tolist()


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def features():
    return make_input(FRAMES, GRID)[0].astype(np.float64)


@pytest.mark.parametrize("retention", [0.1, 0.3, 0.7])
def test_evs(features, retention):
    """The first frame whole, then the places of the video that are least like themselves one frame earlier."""
    budget = round(retention * FRAMES * PER_FRAME)
    units = unit(features)
    likeness = {t * PER_FRAME + i: units[t, i] @ units[t - 1, i] for t in range(1, FRAMES) for i in range(PER_FRAME)}
    rest = sorted(likeness, key=likeness.__getitem__)[: budget - PER_FRAME]
    assert chosen("evs", retention) == sorted([*range(PER_FRAME), *rest])


def test_dycoke(features):
    """47.5 %: of windows of four the first frame whole, 30 % of the others: to frames 0, 0 and 2 of the window."""
    units, expected = unit(features), []
    for t in range(FRAMES):
        like = {1: t - 1, 2: t - 2, 3: t - 1}.get(t % 4)
        likeness = [0 if like is None else units[t, i] @ units[like, i] for i in range(PER_FRAME)]
        count = PER_FRAME if like is None else round(0.3 * PER_FRAME)
        expected += sorted(t * PER_FRAME + i for i in np.argsort(likeness, kind="stable")[:count])
    assert chosen("dycoke", 0.475) == expected


@pytest.mark.parametrize("retention", [0.1, 0.25, 0.5])
def test_vidcom2(features, retention):
    """Gaussian likeness, at five scales, to the mean of the video and of the frame on the steady half of channels."""
    variance = features.reshape(-1, features.shape[-1]).var(0)
    units = unit(features[..., np.sort(np.argsort(variance)[: features.shape[-1] // 2])])

    def likeness(centre):
        squared = ((units - centre) ** 2).sum(-1)
        return sum(np.exp(-squared / (2 * scale)) for scale in (1 / 8, 1 / 4, 1 / 2, 1, 2))

    to_video, to_frame = likeness(units.mean((0, 1))), likeness(units.mean(1, keepdims=True))
    outstanding = -to_video.mean(1)
    share = np.exp((outstanding - outstanding.max()) / 0.01)
    share /= share.sum()
    wanted = retention * PER_FRAME * (1 + share - share.mean())
    counts = np.bincount(np.array(chosen("vidcom2", retention)) // PER_FRAME, minlength=FRAMES)
    assert np.abs(counts - wanted).max() < 1
    best = np.argsort(to_video + to_frame, axis=1, kind="stable")
    expected = [sorted(t * PER_FRAME + i for i in best[t, : counts[t]]) for t in range(FRAMES)]
    assert chosen("vidcom2", retention) == [i for frame in expected for i in frame]


def test_visionzip():
    """Of 12 tokens a frame 12·54/64 by attention; of the other 20 every 10th is contextual."""
    _, _, _, last, keys = make_input(FRAMES, GRID)
    dominant, contextual = [], []
    for t in range(FRAMES):
        order = np.argsort(-last[t], kind="stable")
        dominant += sorted(t * PER_FRAME + i for i in order[:10])
        contextual += [t * PER_FRAME + i for i in sorted(order[10:])[::10]]
    extras = {"attention_last": last, "keys": keys}
    assert chosen("visionzip", 0.4, kind=TokenKind.GLOBAL, **extras) == dominant
    assert chosen("visionzip", 0.4, kind=TokenKind.LOCAL, **extras) == contextual


def test_fastvid_salient(features):
    """12 - int(0.4 · 12) of a frame's 12 tokens by attention."""
    _, _, _, last, _ = make_input(FRAMES, GRID)
    best = np.argsort(-last, axis=1, kind="stable")[:, :8]
    expected = [t * PER_FRAME + i for t in range(FRAMES) for i in sorted(best[t])]
    assert chosen("fastvid", 0.4, kind=TokenKind.GLOBAL, attention_last=last) == expected


def test_flashvid_diverse(features):
    """70 % of a frame's 12 tokens, each the farthest from those before it by (1 - cos)·attention·relevance.

    Relevance is the inner product with the mean of the segment's frame means. The three scenes are the segments.
    """
    _, _, _, last, _ = make_input(FRAMES, GRID)
    means, units, expected = features.mean(1), unit(features), []
    cosine = (unit(means[1:]) * unit(means[:-1])).sum(-1)
    ends = [t + 1 for t in np.argsort(cosine)[:7]] + [t + 1 for t in range(FRAMES - 1) if cosine[t] < 0.9]
    segment = [sum(t >= end for end in set(ends)) for t in range(FRAMES)]
    for t in range(FRAMES):
        around = np.mean([means[s] for s in range(FRAMES) if segment[s] == segment[t]], axis=0)
        weight = last[t] * np.maximum(features[t] @ around, 0)
        distance = (1 - units[t] @ units[t].T) * weight
        near = (distance + np.diag([np.inf] * PER_FRAME)).min(0)
        picked = []
        for step in range(8):
            best = max((i for i in range(PER_FRAME) if i not in picked), key=lambda i: near[i])
            near = distance[best] if step == 0 else np.minimum(near, distance[best])
            picked.append(best)
        expected += sorted(t * PER_FRAME + i for i in picked)
    assert chosen("flashvid", 0.4, kind=TokenKind.GLOBAL, attention_last=last) == expected
