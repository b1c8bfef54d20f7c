"""A video that does not end: an exact budget at every moment, old clips compressed further, nothing that grows."""

from dataclasses import replace

import pytest
import torch

from aot import AOTConfig, AOTError, LiveStream, TokenKind, VideoStream, compress, join
from aot.live import join_newest, newest_give, recompress
from aot.ops import merge

NEWLINE = torch.zeros(16)


def pushed(stream, video, *, pushes=3):
    features, shallow, deep = video
    for start in range(0, len(features), pushes):
        span = slice(start, start + pushes)
        stream.push(features[span], shallow[span], deep[span])
    return stream


@pytest.mark.parametrize(("retention", "frames"), [(None, 400), (0.3, 120)])
def test_the_budget_is_exact_at_every_moment(make_video, retention, frames):
    """One frame at a time; after each the tokens are counted, and again and again what a question would see."""
    config = AOTConfig(max_tokens=100, retention=retention)
    live = LiveStream(config, newline=NEWLINE, newline_position="frame")
    features, shallow, deep = make_video(frames, (6, 6), 16)
    for frame in range(frames):
        span = slice(frame, frame + 1)
        live.push(features[span], shallow[span], deep[span])
        held = sum(part.num_visual for part in live.parts)
        assert held == (config.budget(live._frames, 9) if live._frames else 0) <= 100
        assert live._pending["features"].shape[0] <= 4
        if frame < 50 or frame % 97 == 0:
            seen = live.video()
            assert seen.num_visual == config.budget(frame + 1, 9) and seen.num_newlines <= seen.num_visual
            assert seen.frames == frame + 1 and len(seen.clips) <= 24
            torch.testing.assert_close(seen.mass.sum(), torch.tensor(9.0 * (frame + 1)))
            assert bool((seen.frame.diff() >= 0).all())


def test_while_the_retention_decides_it_is_the_whole_video(make_video):
    video = make_video(50, (6, 6), 16)
    settings = {"newline": NEWLINE, "newline_position": "frame"}
    config = AOTConfig(retention=0.3, max_tokens=200)
    live, whole = pushed(LiveStream(config, **settings), video), compress(*video, config, **settings)
    seen = live.video()
    assert seen.bound == whole.bound == "retention"
    here, there = (result.kind != TokenKind.NEWLINE for result in (seen, whole))
    for name in ("tokens", "frame", "position", "kind", "mass"):
        torch.testing.assert_close(getattr(seen, name)[here], getattr(whole, name)[there])
    # of the newlines, those of frames that keep a token
    assert whole.num_newlines == 50 and set(seen.frame[~here].tolist()) == set(seen.frame[here].tolist())


def test_asking_changes_nothing_and_pushes_may_be_cut_anyhow(make_video):
    video = make_video(99, (6, 6), 16)
    config = AOTConfig(max_tokens=90)
    asked, quiet = LiveStream(config), pushed(LiveStream(config), video, pushes=50)
    for frame in range(99):
        pushed(asked, [values[frame : frame + 1] for values in video])
        if frame % 7 == 0:
            asked.video()
    for name in ("tokens", "frame", "position", "mass"):
        torch.testing.assert_close(getattr(asked.video(), name), getattr(quiet.video(), name))


def test_parts_grow_with_their_age(make_video):
    live = pushed(LiveStream(AOTConfig(max_tokens=64)), make_video(600, (4, 4), 8))
    lengths = [part.frames for part in live.parts]
    since = [sum(lengths[place + 1 :]) for place in range(len(lengths))]
    assert sum(lengths) == 596 and len(lengths) <= 2 * 8 + 2  # 149 clips of 4
    assert all(length <= max(4, later) for length, later in zip(lengths, since, strict=True))
    counts = [part.num_visual for part in live.parts]
    # two that were just joined have not given yet
    assert sum(counts) == 64 and min(counts) == 64 // len(counts) and max(counts) <= 2 * min(counts) + 1


def test_what_lies_before_the_newest_joined_parts_stays(make_video):
    """More than half of the tokens are, on the mean, those of the clip before, in the same places; a third were."""
    live, video = LiveStream(AOTConfig(max_tokens=64)), make_video(600, (4, 4), 8)
    before, stayed = torch.zeros(64, 8), []
    for start in range(0, 600, 4):
        tokens = pushed(live, [values[start : start + 4] for values in video], pushes=4).video().tokens
        if start >= 200:
            stayed.append(int(((tokens != before).any(dim=1).cumsum(0) == 0).sum()))
        before = tokens
    assert sum(stayed) / len(stayed) > 64 / 2


def test_a_scene_of_long_ago_is_still_there():
    """Three scenes of orthogonal tokens; of each something is left, and masses say how long it was."""
    scenes = torch.eye(16)[:3].repeat_interleave(torch.tensor([40, 400, 40]), dim=0)
    features = scenes.unsqueeze(1).expand(-1, 16, -1) + 0.01 * torch.randn(
        480, 16, 16, generator=torch.Generator().manual_seed(0)
    )
    flat = torch.ones(480, 16)
    seen = pushed(LiveStream(AOTConfig(max_tokens=64), pool=None), (features, flat, flat)).video()
    scene = seen.tokens[:, :3].argmax(dim=1)
    mass = torch.zeros(3).index_add_(0, scene, seen.mass)
    torch.testing.assert_close(mass, torch.tensor([40.0, 400.0, 40.0]) * 16, atol=16 * 8, rtol=0)


def test_recompression_is_the_method_with_masses(make_video):
    """One kept token by hand: it is the one from which the others, by mass, are least far, and takes their mean."""
    config = AOTConfig(max_tokens=64, spatial_weight=0.0, temporal_weight=0.0, clip_length=1)
    video = compress(*make_video(1, (2, 2), 8), AOTConfig(retention=1.0), pool=None)
    mass = torch.tensor([1.0, 2.0, 3.0, 10.0])
    video = type(video)(**{**vars(video), "mass": mass, "config": config})
    unit = torch.nn.functional.normalize(video.tokens, dim=1)
    cost = 1 - unit @ unit.T
    best = int((mass @ cost).argmin())
    others = torch.arange(4) != best
    carried = (mass[others, None] * video.tokens[others]).sum(0)
    [left] = recompress([video], [1])
    assert left.position.tolist() == [video.position[best].tolist()] and left.mass.tolist() == [16.0]
    strength, cap = config.merge_strength * mass[best], config.merge_cap
    expected = merge(
        video.tokens[best], carried / mass[best] ** 2, mass[others].sum() / mass[best] ** 2, strength=strength, cap=cap
    )
    torch.testing.assert_close(left.tokens[0], expected)
    assert recompress([video], [4])[0] is video


def test_newlines_go_with_the_last_token_of_their_row(make_video):
    video = make_video(4, (6, 6), 16)
    config = AOTConfig(max_tokens=64, newlines="row", retention=0.5)
    whole = compress(*video, config, newline=NEWLINE)
    [left] = recompress([whole], [5])
    rows = {(int(f), int(p[0])) for f, p, k in zip(left.frame, left.position, left.kind, strict=True) if k != 3}
    lines = {(int(f), int(p[0])) for f, p, k in zip(left.frame, left.position, left.kind, strict=True) if k == 3}
    assert left.num_visual == 5 and rows == lines and left.kind[-1] == TokenKind.NEWLINE


def test_parts_are_recompressed_alike_together_and_alone(make_video, monkeypatch):
    config = AOTConfig(max_tokens=64, retention=0.5)
    parts = [compress(*make_video(frames, (6, 6), 16, seed=frames), config, newline=NEWLINE) for frames in (3, 1, 4, 2)]
    counts = [5, 4, 40, 3]
    together = recompress(parts, counts)
    assert [part.num_visual for part in together] == [5, 4, parts[2].num_visual, 3] and together[2] is parts[2]
    monkeypatch.setattr("aot.live.COST_BYTES", 1)
    for part, alone in zip(together, recompress(parts, counts), strict=True):
        assert torch.equal(part.frame, alone.frame) and torch.equal(part.position, alone.position)
        torch.testing.assert_close(part.tokens, alone.tokens)
        torch.testing.assert_close(part.mass, alone.mass)


def test_recompression_is_the_same_in_the_callers_autocast(make_video):
    features, *_ = make_video(8, (6, 6), 16)
    part = compress(100 * features, config=AOTConfig(retention=0.5), pool=None)
    [plain] = recompress([part], [20])
    with torch.autocast("cpu", dtype=torch.float16):
        [cast] = recompress([part], [20])
    assert torch.equal(cast.tokens, plain.tokens) and torch.equal(cast.position, plain.position)


def test_the_newest_give_first_and_none_more_than_an_even_share():
    assert newest_give([5, 30, 20, 50], 80) == [5, 30, 20, 25]
    assert newest_give([5, 30, 20, 50], 60) == [5, 25, 15, 15]
    assert newest_give([7, 7, 7], 20) == [7, 7, 6]
    assert newest_give([3, 4], 7) == [3, 4]


def test_one_pair_is_joined_at_a_time(make_video):
    clip = compress(*make_video(1, (2, 2), 8), AOTConfig(retention=1.0), pool=None)
    parts = [replace(clip, first_frame=number) for number in range(5)]
    assert join_newest([]) == [] and len(join_newest(parts[:3])) == 3
    assert [part.frames for part in join_newest(parts)] == [1, 2, 1, 1]


def test_other_settings_are_refused():
    for config in (AOTConfig(), AOTConfig(max_tokens=63), AOTConfig(method="evs", max_tokens=100)):
        with pytest.raises(AOTError, match="A live video"):
            LiveStream(config)
    with pytest.raises(AOTError, match="clips='uniform'"):
        LiveStream(AOTConfig(max_tokens=100, clips="dynamic"))


def test_tokens_of_half_precision_stay_so(make_video):
    live = pushed(LiveStream(AOTConfig(max_tokens=64)), make_video(60, (6, 6), 16, dtype=torch.bfloat16))
    assert live.video().tokens.dtype == torch.bfloat16 and live.video().num_visual == 64


def test_a_distortion_keeps_fewer(make_video):
    video = make_video(60, (6, 6), 16)
    config = AOTConfig(max_tokens=64, distortion=0.4)
    short = pushed(LiveStream(config), [values[:4] for values in video]).video()
    assert short.bound == "distortion" and short.num_visual < 4 * 9
    assert pushed(LiveStream(config), video).video().num_visual <= 64


def test_one_newline_stands_at_the_very_end(make_video):
    settings = {"newline": NEWLINE, "newline_position": "one_token"}
    seen = pushed(LiveStream(AOTConfig(max_tokens=64), **settings), make_video(60, (6, 6), 16)).video()
    assert (seen.kind == TokenKind.NEWLINE).nonzero().flatten().tolist() == [64]
    assert join(pushed(VideoStream(AOTConfig(), **settings), make_video(8, (6, 6), 16)).finish()).num_newlines == 1
