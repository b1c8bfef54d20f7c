"""OTT-Vid: counts, steps by hand, chains and dropped tokens."""

import math

import pytest
import torch

from aot import AOTConfig, AOTError, TokenKind, compress, pool_tokens
from aot.methods.common import chain_roots
from aot.methods.ott_vid import choose_merges, frame_pair_cost, relative_gain, representatives, spatial_count


def directions(*angles):
    """Unit vectors of the plane at these degrees, (len, 2)."""
    radians = torch.tensor(angles) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def run(features, retention, *, saliency=None, pool=None, grid=None, trace=False, **options):
    saliency = torch.ones(features.shape[:2]) if saliency is None else saliency
    config = AOTConfig(method="ott_vid", retention=retention, options=options)
    return compress(
        features, None, None, config, pool=pool, grid=grid, extras={"attention_last": saliency}, trace=trace
    )


@pytest.mark.parametrize("pool", ["bilinear", "max", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_shape_gives_the_exact_count(make_video, pool, dtype):
    for frames, grid in ((1, (4, 4)), (2, (5, 3)), (6, (7, 6)), (9, (2, 5))):
        features, saliency, _ = make_video(frames, grid, 5, dtype=dtype)
        per_frame = pool_tokens(features, grid, pool).shape[1]
        for retention in (0.01, 0.1, 0.26, 0.6, 1.0):
            video = run(features, retention, saliency=saliency, pool=pool, grid=grid)
            index = (video.frame * video.grid[0] + video.position[:, 0]) * video.grid[1] + video.position[:, 1]
            assert bool((index.diff() > 0).all())
            assert video.num_visual == max(1, int(retention * frames * per_frame + 1e-9))
            assert video.tokens.dtype == dtype and video.tokens.isfinite().all()
            assert float(video.mass.min()) >= 1 and float(video.mass.sum()) <= frames * per_frame
            assert torch.equal(video.kind == TokenKind.LOCAL, video.mass > 1)


@pytest.mark.parametrize("value", [0.0, 1.0, 6e4])
def test_constant_frames(value):
    features = torch.full((5, 12, 3), value, dtype=torch.float16)
    for saliency in (torch.ones(5, 12), torch.zeros(5, 12)):
        video = run(features, 0.2, saliency=saliency, grid=(3, 4))
        assert video.num_visual == 12
        assert torch.equal(video.tokens, torch.full_like(video.tokens, value))


def test_a_still_video_is_joined_along_time():
    """Three equal frames of four different tokens: each is kept once and stands for all three."""
    features = torch.eye(4).expand(3, 4, 4)
    video = run(features, 0.34, temporal_share=1.0)  # nothing goes inside frames; 4 of 12 stay
    assert video.frame.tolist() == [0, 0, 0, 0] and video.mass.tolist() == [3, 3, 3, 3]
    torch.testing.assert_close(video.tokens, torch.eye(4))
    video = run(features, 0.5, temporal_share=1.0)  # with two more, frames 1 and 2 keep a token each
    assert video.frame.tolist() == [0, 0, 0, 0, 1, 2] and float(video.mass.sum()) == 12


def test_facility_location_by_hand():
    """Two of four tokens at 0, 10, 20 and 90 degrees: that at 20 explains most at first, then that at 90."""
    units = directions(0, 10, 20, 90).unsqueeze(0)
    place, gain = representatives(units, torch.ones(1, 4), 2)
    assert place.tolist() == [[2, 3]]
    cos = {angle: math.cos(math.radians(angle)) for angle in (0, 10, 20, 70, 80, 90)}
    first = (cos[20] - cos[90]) + (cos[10] - cos[80]) + (cos[0] - cos[70])  # of 0, 10, 20: likeness to 20, less to 90
    assert gain[0].tolist() == pytest.approx([first / 4, (cos[0] - cos[70]) / 4], abs=1e-6)
    # a saliency that sees the token at 90 only chooses it, and nothing else counts
    place, gain = representatives(units, torch.tensor([[0.0, 0, 0, 4]]), 1)
    assert place.tolist() == [[3]] and gain.tolist() == [[1.0]]


def test_masses_compare_gains_with_the_largest_of_the_frame():
    """However small all gains of a frame are, its least replaceable token weighs e^(-1/0.3) of one without any."""
    gain = torch.tensor([[0.002, 0.001, 0.0], [0.0, 0.0, 0.0]])
    assert relative_gain(gain).tolist() == [[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]
    features = torch.randn(3, 12, 5, generator=torch.Generator().manual_seed(0))
    trace = run(features, 0.3, trace=True, grid=(3, 4)).trace
    weight = (-trace["gain"] / trace["gain"].amax(1, keepdim=True) / 0.3).exp()
    mass = weight / weight.sum(1, keepdim=True)
    torch.testing.assert_close(trace["plan"].sum(2), mass[:-1], rtol=1e-3, atol=1e-4)


def test_cost_by_hand():
    """A row of two tokens whose right one turns by 90 degrees: α = 0.5 + 0.5·(1 - (1 + 0)/2) = 0.75."""
    units = torch.stack([directions(0, 0), directions(0, 90)])
    cost = frame_pair_cost(units, torch.tensor([[0, 1], [0, 1]]), (1, 2))
    # likeness 1 or 0; places 0 or 1 apart, of at most √2
    far = 0.25 / math.sqrt(2)
    torch.testing.assert_close(cost[0], torch.tensor([[0.0, 0.75 + far], [far, 0.75]]))


def test_merges_by_hand():
    """Pair 0 costs nothing and pair 1 much: it takes two of three merges, or all but its frame's last token."""
    plan = torch.tensor(
        [
            [[0.3, 0.0, 0.1], [0.1, 0.4, 0.0], [0.0, 0.0, 0.1]],
            [[0.0, 0.5, 0.0], [0.1, 0.1, 0.0], [0.1, 0.1, 0.1]],
        ]
    )
    joined, partner = choose_merges(plan, torch.tensor([0.0, 0.2]), 3)
    assert partner.tolist() == [[0, 1, 0], [1, 0, 2]]  # of equals the first
    # shares 3/(1 + e^(-2/3)) = 1.98 and 1.02
    assert joined.tolist() == [[True, True, False], [False, True, False]]
    joined, _ = choose_merges(plan, torch.tensor([0.0, 3.0]), 3)  # shares 3 and 0; one token of frame 1 stays
    assert joined.tolist() == [[True, True, False], [False, True, False]]
    joined, _ = choose_merges(plan, torch.tensor([0.0, 3.0]), 5)
    assert joined.sum().item() == 5


def test_chains_end_at_their_first_token():
    joined = torch.tensor([[True, False], [True, True], [False, True]])
    partner = torch.tensor([[1, 0], [0, 1], [1, 0]])
    # frame 1: token 0 -> frame 0's 1; frame 2: 0 -> frame 1's 0 -> 1, 1 -> frame 1's 1; frame 3: 1 -> frame 2's 0 -> 1
    assert chain_roots(joined, partner).tolist() == [0, 1, 1, 3, 1, 3, 6, 1]
    everything = torch.ones(40, 1, dtype=torch.bool)
    assert chain_roots(everything, torch.zeros(40, 1, dtype=torch.int64)).tolist() == [0] * 41


def test_dear_matches_are_dropped_with_what_joined_them():
    """One place: frame 1 is unlike frame 0 and like frame 2. Kept is frame 0 alone, with nothing merged in."""
    features = torch.stack([directions(0), directions(90), directions(90)])
    video = run(features, 0.34, temporal_share=1.0)
    assert video.frame.tolist() == [0] and video.mass.tolist() == [1.0]
    assert torch.equal(video.tokens, features[0])
    close = torch.stack([directions(0), directions(20), directions(40)])
    video = run(close, 0.34, temporal_share=1.0)
    assert video.mass.tolist() == [3.0]
    torch.testing.assert_close(video.tokens, close.mean(0))


def test_spatial_count():
    assert spatial_count(0.1, 0.3, 627, 32, 196) == 39  # 196 · 0.1^0.7 = 39.1
    assert spatial_count(1.0, 0.3, 6272, 32, 196) == 196
    assert spatial_count(0.1, 0.0, 627, 32, 196) == 20  # nothing left to join: ⌈627/32⌉
    assert spatial_count(0.01, 0.3, 3, 128, 4) == 1
    with pytest.raises(AOTError, match="temporal_share"):
        AOTConfig(method="ott_vid", options={"temporal_share": 2})
    with pytest.raises(AOTError, match="attention_last"):
        compress(torch.zeros(2, 4, 3), None, None, AOTConfig(method="ott_vid"))
