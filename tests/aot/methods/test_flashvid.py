"""FlashVID: counts, steps by hand, masses."""

import math

import pytest
import torch

from aot import AOTConfig, AOTError, TokenKind, compress, pool_tokens
from aot.methods.common import segment_means
from aot.methods.flashvid import cluster_counts, diverse_tokens, link


def directions(*angles):
    """Unit vectors of the plane at these degrees, (len, 2)."""
    radians = torch.tensor(angles) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def run(features, retention, *, saliency=None, **arguments):
    saliency = torch.ones(features.shape[:2]) if saliency is None else saliency
    config = AOTConfig(method="flashvid", retention=retention)
    arguments = {"pool": None, **arguments}
    return compress(features, None, None, config, extras={"attention_last": saliency}, **arguments)


@pytest.mark.parametrize("pool", ["bilinear", "max", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_shape_gives_the_exact_count(make_video, pool, dtype):
    for frames, grid in ((1, (4, 4)), (2, (5, 3)), (12, (7, 6)), (9, (2, 5))):
        features, saliency, _ = make_video(frames, grid, 5, dtype=dtype)
        tokens = pool_tokens(features, grid, pool)
        for retention in (0.01, 0.1, 0.26, 0.6, 0.95, 1.0):
            video = run(features, retention, saliency=saliency, pool=pool, grid=grid)
            place = video.position[:, 0] * video.grid[1] + video.position[:, 1]
            assert bool(((video.frame * tokens.shape[1] + place).diff() > 0).all())
            assert video.num_visual == max(1, int(retention * tokens.shape[0] * tokens.shape[1] + 1e-9))
            assert video.tokens.dtype == dtype and video.tokens.isfinite().all()
            assert float(video.mass.min()) >= 1 and float(video.mass.sum()) <= video.tokens_before
            alone = (video.kind == TokenKind.GLOBAL) | (video.mass == 1)
            assert torch.equal(video.tokens[alone], tokens[video.frame, place][alone])
            assert sum(video.clips) == frames


@pytest.mark.parametrize("value", [0.0, 1.0, 6e4])
def test_constant_frames(value):
    features = torch.full((11, 12, 3), value, dtype=torch.float16)
    for saliency in (torch.ones(11, 12), torch.zeros(11, 12)):
        for retention in (0.05, 0.2, 0.8):
            video = run(features, retention, saliency=saliency, grid=(3, 4))
            assert video.num_visual == int(retention * 132 + 1e-9)
            assert torch.equal(video.tokens, torch.full_like(video.tokens, value))


def test_diversity_by_hand():
    """Tokens at 0, 10, 60 and 100 degrees: nearest neighbours at 10, 10, 40 and 40. Of equals the lower is first."""
    units = directions(0, 10, 60, 100).expand(3, 4, 2)
    weight = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [9, 1, 1, 1]])
    chosen = diverse_tokens(units, weight, [1, 2, 2])
    # from 60: 0 is 60 away, 10 is 50, 100 is 40. With a weight of 9 the token at 0 comes first of all
    # only where 9·(1 - cos 10) = 0.137 is the largest, which it is not against 1 - cos 40 = 0.234
    assert chosen.tolist() == [[False, False, True, False], [True, False, True, False], [True, False, True, False]]
    chosen = diverse_tokens(units[:1], torch.tensor([[20.0, 1, 1, 1]]), [2])
    assert chosen.tolist() == [[True, False, False, True]]  # from 0: 100 is the farthest
    assert diverse_tokens(units[:1], torch.zeros(1, 4), [2]).tolist() == [[True, True, False, False]]
    assert not diverse_tokens(units[:1], weight[:1], [0]).any()


def test_links_by_hand():
    """Three frames of two tokens, frame 2 in a segment of its own."""
    units = torch.stack([directions(0, 90), directions(20, 50), directions(20, 50)])
    segment, merged = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0])
    nothing = torch.zeros(3, 2, dtype=torch.bool)
    joined, partner = link(units, nothing, segment, merged, 0.8)
    assert joined.tolist() == [[True, False], [False, False]]  # cos 20 = 0.94, cos 40 = 0.77, another segment
    assert partner[0].tolist() == [0, 1]
    # what was chosen neither joins nor is joined
    chosen = torch.tensor([[True, False], [False, False], [False, False]])
    assert link(units, chosen, segment, torch.zeros_like(merged), 0.8)[0].tolist() == [[False, False], [False, False]]
    # of two possible links the more similar one when three averages must stay
    units = torch.stack([directions(0, 90), directions(20, 80), directions(0, 0)])
    joined, _ = link(units, nothing, segment, torch.tensor([2, 1, 0]), 0.8)
    assert joined.tolist() == [[False, True], [False, False]]


def test_counts_by_hand():
    segment = torch.tensor([0, 0, 1, 1])
    # segment 0 shares 4 as 3 : 1, segment 1 shares 3 as 1 : 1, of which the first frame gets the half
    counts = cluster_counts(torch.tensor([6, 2, 5, 5]), torch.tensor([2, 2, 1, 2]), segment, 7)
    assert counts.tolist() == [3, 1, 2, 1]
    nothing = torch.zeros(4, dtype=torch.int64)
    assert cluster_counts(nothing, nothing, segment, 0).tolist() == [0, 0, 0, 0]
    means = segment_means(torch.tensor([[1.0], [3], [5], [8]]), segment, torch.tensor([2, 2]))[segment]
    assert means.tolist() == [[2.0], [2.0], [6.5], [6.5]]


def test_a_still_video_by_hand():
    """Two equal frames in one segment, four of eight stay: of each frame one for its own sake, one as a mean.

    2 of 4 tokens a frame, 1.4 rounded for their own sake: the farthest from its neighbour, weighted by its likeness to
    the mean. What is left is joined between the frames.
    """
    features = directions(0, 10, 60, 100).expand(2, 4, 2)
    video = run(features, 0.5, clips=[2])
    own = video.kind == TokenKind.GLOBAL
    mean = features[0].mean(0)
    apart = 1 - torch.tensor([10.0, 10, 40, 40]).deg2rad().cos()
    first = int((apart * (features[0] @ mean)).argmax())
    assert video.position[own].tolist() == [[first // 2, first % 2]] * 2 and video.mass[own].tolist() == [1, 1]
    # three trees of two tokens each, all held by frame 0, in the two clusters that the frames have together
    assert video.frame[~own].tolist() == [0, 0] and sorted(video.mass[~own].tolist()) == [2, 4]
    rest = features[0, [i for i in range(4) if i != first]]
    pair = video.tokens[~own][video.mass[~own] == 4]
    assert any(torch.allclose(pair[0], rest[[i, j]].mean(0), atol=1e-6) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_segments_are_cut_at_the_lowest_until_eight(make_video):
    angles = [0, 1, 3, 4, 40, 41, 43, 48, 49, 51, 52, 55, 59, 60]  # steps 1 2 1 36 1 2 5 1 2 1 3 4 1
    features = directions(*angles).unsqueeze(1)
    video = run(features, 0.5)
    # cos 36 < 0.9; of the others the six largest steps: 5, 4, 3 and three of the 2s
    assert video.clips == [2, 2, 2, 1, 2, 2, 1, 2] and len(video.clips) == 8


def test_attention_is_needed():
    with pytest.raises(AOTError, match="attention_last"):
        compress(torch.zeros(2, 4, 3), None, None, AOTConfig(method="flashvid"))
