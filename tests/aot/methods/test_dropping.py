"""EVS, DyCoke, VidCom2, V-CAST and FLoC: methods that drop tokens and merge none."""

import math

import pytest
import torch

from aot import AOTConfig, AOTError, TokenKind, compress, pool_tokens
from aot.methods.common import best_by_quota
from aot.methods.dycoke import window_length
from aot.methods.vidcom2 import steady_channels

METHODS = ("evs", "evs+tuned", "dycoke", "dycoke+tuned", "vidcom2", "vcast", "floc")


def places(video):
    """(frame, flat place) of every visual token."""
    visual = video.kind != TokenKind.NEWLINE
    flat = video.position[visual, 0] * video.grid[1] + video.position[visual, 1]
    return list(zip(video.frame[visual].tolist(), flat.tolist(), strict=True))


def directions(*angles):
    """Unit vectors of the plane at these degrees, (len, 2)."""
    radians = torch.tensor(angles) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pool", ["bilinear", "average", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_shape_gives_the_exact_count(make_video, method, pool, dtype):
    for frames, grid in ((1, (4, 4)), (2, (5, 3)), (5, (7, 6)), (9, (2, 5))):
        features = make_video(frames, grid, 3 + frames, dtype=dtype)[0]
        tokens = pool_tokens(features, grid, pool)
        for retention in (0.01, 0.1, 0.26, 0.6, 1.0):
            config = AOTConfig(method=method, retention=retention)
            video = compress(features, None, None, config, pool=pool, grid=grid)
            kept = places(video)
            assert len(kept) == config.budget(frames, tokens.shape[1]) == len(set(kept))
            assert kept == sorted(kept)
            frame, place = torch.tensor(kept).T
            assert torch.equal(video.tokens, tokens[frame, place])
            assert torch.equal(video.mass, torch.ones(len(kept)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0, 6e4])
def test_constant_frames_give_the_exact_count(method, value):
    features = torch.full((6, 16, 5), value, dtype=torch.float16)
    for retention in (0.05, 0.3, 0.7):
        config = AOTConfig(method=method, retention=retention)
        video = compress(features, None, None, config, pool=None)
        assert len(set(places(video))) == video.num_visual == config.budget(6, 16)


def test_quotas_are_met_exactly():
    score = torch.tensor([[3.0, 1, 2, 0], [0, 1, 2, 3], [1, 1, 1, 1]])
    # floors 1, 0, 2 and one more for the largest remainder, frame 1's; its best place is 3
    index = best_by_quota(score, torch.tensor([1.2, 0.7, 2.1], dtype=torch.float64), 4)
    assert index.tolist() == [0, 7, 8, 9]
    # frame 0 has four tokens only; what it cannot give is shared evenly
    index = best_by_quota(score, torch.tensor([7.0, 0.5, 0.5], dtype=torch.float64), 8)
    assert (index // 4).tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


def test_evs_by_hand():
    """Angles to the same place one frame earlier are 0, 30, 90, 10 in frame 1 and 60, 5, 0, 80 in frame 2."""
    features = torch.stack([directions(0, 0, 0, 0), directions(0, 30, 90, 10), directions(60, 35, 90, 90)])
    features = features * torch.tensor([1.0, 5.0, 0.2]).view(3, 1, 1)  # lengths play no part
    video = compress(features, None, None, AOTConfig(method="evs", retention=0.6), pool=None)
    assert places(video) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (2, 0), (2, 3)]
    assert video.kind.tolist() == [TokenKind.GLOBAL] * 4 + [TokenKind.DYNAMIC] * 3
    # 3 of 12 are fewer than a frame: two of the first frame, evenly, and the largest change
    video = compress(features, None, None, AOTConfig(method="evs", retention=0.25), pool=None)
    assert places(video) == [(0, 1), (0, 3), (1, 2)]


def test_dycoke_by_hand():
    """Window of four with one place changing per frame: 1 and 2 are compared with 0, 3 with 2."""
    features = torch.stack(
        [
            directions(0, 0, 0, 0),
            directions(0, 50, 0, 0),
            directions(0, 50, 70, 0),  # to frame 0 the change is at 2; to frame 1 as well, 1 is a return
            directions(80, 50, 70, 0),  # to frame 2: place 0; to frame 0 place 0 before 2
        ]
    )
    video = compress(features, None, None, AOTConfig(method="dycoke", retention=0.4375), pool=None)
    assert places(video) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (2, 2), (3, 0)]
    assert video.kind.tolist() == [TokenKind.GLOBAL] * 4 + [TokenKind.DYNAMIC] * 3
    # frame 3 looks like frame 0 again but for a small change against frame 2's large one
    features[3] = directions(0, 0, 0, 20)
    video = compress(features, None, None, AOTConfig(method="dycoke", retention=0.4375), pool=None)
    assert places(video)[-1] == (3, 2)


def test_dycoke_windows_widen_only_where_they_must():
    assert [window_length(round(32 * 100 * r), 32, 100) for r in (0.475, 0.33, 0.325)] == [4, 4, 4]
    assert window_length(32 * 25, 32, 100) == 6  # 6 windows take 600 of 800; 7 would take more than 615
    assert window_length(32 * 10, 32, 100) == 16
    assert window_length(100, 32, 100) == 32
    for frames in range(1, 40):
        for budget in (1, frames, 5 * frames, 8 * frames):
            window = window_length(budget, frames, 10)
            assert window == 4 or -(-frames // window) * 130 <= 10 * budget or window >= frames


def test_dycoke_shares_evenly_and_keeps_the_first_frames_whole(make_video):
    features = make_video(8, (6, 5), 12)[0]
    video = compress(features, None, None, AOTConfig(method="dycoke", retention=0.475), pool=None, grid=(6, 5))
    assert video.frame.bincount().tolist() == [30, 9, 9, 9, 30, 9, 9, 9]
    video = compress(features, None, None, AOTConfig(method="dycoke", retention=0.05), pool=None, grid=(6, 5))
    counts = video.frame.bincount(minlength=8).tolist()
    assert sum(counts) == 12 and counts[0] == 10 and max(counts[1:]) == 1


def test_dycoke_shows_a_share_of_the_budget_in_first_frames(make_video):
    features = make_video(19, (6, 5), 12)[0]
    options = {"window": 8, "first_share": 0.5}
    config = AOTConfig(method="dycoke", retention=0.1, options=options)  # 57 tokens; three first frames share 29
    video = compress(features, None, None, config, pool=None, grid=(6, 5))
    counts = video.frame.bincount(minlength=19).tolist()
    assert [counts[0], counts[8], counts[16]] == [9, 10, 10] and set(counts) == {9, 10, 1, 2} and sum(counts) == 57
    # frame 1 of a window is compared with frame 0, and frame 6 with frame 4
    units = features / features.norm(dim=-1, keepdim=True)
    for frame, reference in ((1, 0), (6, 4), (15, 14)):
        unlike = (units[frame] * units[reference]).sum(-1).argsort()[: counts[frame]]
        kept = video.position[video.frame == frame]
        assert sorted(unlike.tolist()) == (kept[:, 0] * 5 + kept[:, 1]).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"window": 1}, "option window"), ({"window": 4.5}, "option window"), ({"first_share": 2}, "option first_share")],
)
def test_dycoke_options_are_checked(options, message):
    with pytest.raises(AOTError, match=message):
        AOTConfig(method="dycoke", options=options)


def test_vidcom2_takes_the_channels_that_vary_least():
    tokens = torch.tensor([[[0.0, 1, 5, 2]], [[4.0, 2, 5, 2]], [[8.0, 4, 5, 3]]])
    assert torch.equal(steady_channels(tokens), tokens[:, :, 2:])
    assert steady_channels(torch.randn(2, 3, 1)).shape == (2, 3, 1)


def test_vidcom2_by_hand():
    """Two steady channels beside two that swing; the odd token of each frame stays."""
    steady = directions(0, 0, 0, 40).expand(2, 4, 2)
    swinging = torch.tensor([9.0, -9, -9, 9]).view(1, 4, 1).expand(2, 4, 2)
    features = torch.cat([steady, swinging], dim=-1)
    video = compress(features, None, None, AOTConfig(method="vidcom2", retention=0.25), pool=None, trace=True)
    assert places(video) == [(0, 3), (1, 3)]
    mean = (3 * directions(0) + directions(40)) / 4
    far = (directions(40) - mean).square().sum()
    expected = sum(math.exp(-float(far) / (2 * scale)) for scale in (0.125, 0.25, 0.5, 1, 2))
    for name in ("to_video", "to_frame"):
        assert float(video.trace[name][0, 3]) == pytest.approx(expected, rel=1e-5)
    assert video.trace["quota"].tolist() == pytest.approx([1, 1])


def test_vidcom2_gives_more_to_the_frame_that_stands_out():
    features = torch.stack([directions(0, 4, 8, 12)] * 3 + [directions(60, 64, 68, 72)])
    features = torch.cat([features, 50 * torch.randn(4, 4, 2, generator=torch.Generator().manual_seed(0))], dim=-1)
    video = compress(features, None, None, AOTConfig(method="vidcom2", retention=0.625), pool=None, trace=True)
    # p is nearly 1 in frame 3 and 0 elsewhere: 2.5 (1 + 1 - 1/4) and 2.5 (1 - 1/4)
    assert video.trace["quota"].tolist() == pytest.approx([1.875, 1.875, 1.875, 4.375], rel=1e-3)
    assert video.frame.bincount().tolist() == [2, 2, 2, 4]


def test_a_random_choice_does_not_follow_the_default_device(make_video):
    features, *_ = make_video(4, (4, 4), 8)
    config = AOTConfig(method="random", retention=0.3)
    with torch.device("meta"):
        elsewhere = compress(features, config=config, pool=None)
    assert torch.equal(elsewhere.tokens, compress(features, config=config, pool=None).tokens)
