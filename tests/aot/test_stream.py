"""Videos that come in pushes: running budgets, and nothing depends on how the frames were pushed."""

from dataclasses import replace

import pytest
import torch

from aot import AOTConfig, AOTError, LiveStream, TokenKind, VideoStream, compress, join
from aot.stream import append_parts

NEWLINE = torch.zeros(16)


def stream(video, config, *, pushes, **settings):
    features, shallow, deep = video
    ours = VideoStream(config, **settings)
    parts = []
    for start in range(0, len(features), pushes):
        span = slice(start, start + pushes)
        parts += ours.push(features[span], shallow[span], deep[span])
    return parts + ours.finish()


@pytest.mark.parametrize(("frames", "retention"), [(21, 0.1), (8, 0.29), (5, 1.0), (33, 0.004)])
def test_after_each_clip_the_running_budget_is_spent(make_video, frames, retention):
    config = AOTConfig(retention=retention, clip_length=8)
    parts = stream(make_video(frames, (6, 6), 16), config, pushes=5)
    so_far = total = 0
    for part in parts:
        so_far, total = so_far + part.frames, total + len(part.tokens)
        assert total == config.budget(so_far, 9)
    whole = join(parts)
    assert len(whole.tokens) == config.budget(frames, 9) and so_far == frames
    assert bool((whole.frame.diff() >= 0).all()) and whole.config == config
    told = sum(part.frames for part in parts if len(part.tokens))  # a last clip without a token is dropped
    torch.testing.assert_close(whole.mass.sum(), torch.tensor(9.0 * told))


@pytest.mark.parametrize("pushes", [1, 8, 100])
def test_how_frames_are_pushed_changes_nothing(make_video, pushes):
    video = make_video(19, (6, 6), 16)
    settings = {"newline": NEWLINE, "newline_position": "one_token"}
    expected = join(stream(video, {"retention": 0.3, "clip_length": 8}, pushes=3, **settings))
    whole = join(stream(video, {"retention": 0.3, "clip_length": 8}, pushes=pushes, **settings))
    assert torch.equal(whole.frame, expected.frame) and torch.equal(whole.position, expected.position)
    torch.testing.assert_close(whole.tokens, expected.tokens)
    assert whole.clips == expected.clips == [8, 8, 3]
    assert (whole.kind == TokenKind.NEWLINE).nonzero().tolist() == [[len(whole.tokens) - 1]]


@pytest.mark.parametrize(("frames", "clip_length"), [(8, None), (19, 8), (17, 8), (22, 16), (9, 2)])
def test_a_stream_is_the_whole_video(make_video, frames, clip_length):
    video = make_video(frames, (6, 6), 16)
    config = AOTConfig(retention=0.3, clip_length=clip_length)
    settings = {"newline": NEWLINE, "newline_position": "frame"}
    whole, expected = join(stream(video, config, pushes=3, **settings)), compress(*video, config, **settings)
    torch.testing.assert_close(whole.tokens, expected.tokens)
    torch.testing.assert_close(whole.mass, expected.mass)
    assert torch.equal(whole.kind, expected.kind) and torch.equal(whole.frame, expected.frame)
    assert torch.equal(whole.position, expected.position) and whole.clips == expected.clips


def test_clips_of_a_stream_hold_so_many_tokens(make_video):
    ours = VideoStream(AOTConfig(), pool=None)
    assert [len(ours.push(*make_video(4, (14, 14), 4))) for _ in range(3)] == [0, 1, 1]
    other = VideoStream(AOTConfig(method="evs"), pool=None)
    assert [len(other.push(*make_video(4, (14, 14), 4))) for _ in range(3)] == [0, 0, 1]


def test_the_frame_before_a_clip_tells_what_changed(make_video):
    features, shallow, deep = make_video(6, (6, 6), 16)
    config = AOTConfig(retention=0.3)
    whole = compress(features, shallow, deep, config, trace=True).trace["change"]
    later = compress(features[3:], shallow[3:], deep[3:], config, before=features[2:3], trace=True).trace["change"]
    torch.testing.assert_close(later, whole[3:])
    afresh = compress(features[3:], shallow[3:], deep[3:], config, trace=True).trace["change"]
    assert not torch.allclose(afresh[0], whole[3])


def test_what_is_held_does_not_grow(make_video):
    features, shallow, deep = make_video(64, (6, 6), 16)
    ours = VideoStream({"retention": 0.1, "clip_length": 8})
    for frame in range(64):
        ours.push(features[frame : frame + 1], shallow[frame : frame + 1], deep[frame : frame + 1])
        if frame:  # the first push is held as it came
            assert all(value.untyped_storage().nbytes() <= 9 * value[0].nbytes for value in ours._pending.values())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AOTConfig.preset("paper", num_anchors=18), "running budget"),
        (AOTConfig(clips="dynamic"), "clips='uniform'"),
    ],
)
def test_settings_that_need_the_whole_video_are_refused(config, message):
    with pytest.raises(AOTError, match=message):
        VideoStream(config)


def test_other_troubles_are_said(make_video):
    with pytest.raises(AOTError, match="nothing to join"):
        join(VideoStream(AOTConfig()).finish())
    ours = VideoStream(AOTConfig())
    ours.push(*make_video(2, (6, 6), 16))
    with pytest.raises(AOTError, match="push the same"):
        ours.push(torch.rand(1, 36, 16))
    with pytest.raises(AOTError, match="one frame"):
        compress(*make_video(2, (6, 6), 16), AOTConfig(), before=torch.rand(2, 36, 16))


@pytest.mark.parametrize("made", [VideoStream(AOTConfig()), LiveStream(AOTConfig(max_tokens=64))])
def test_another_video_needs_another_stream(make_video, made):
    """Its first frames would pass for what followed the last video, in numbers, budget and change."""
    made.push(*make_video(9, (6, 6), 16))
    made.finish()
    with pytest.raises(AOTError, match="make a new one"):
        made.push(*make_video(9, (6, 6), 16))


def test_gathered_clips_are_few_parts_and_the_same_video(make_video):
    video = make_video(13 * 8, (6, 6), 16)
    clips = stream(video, {"retention": 0.1, "clip_length": 8}, pushes=5)
    parts = []
    for clip in clips:
        append_parts(parts, [clip])
    whole, expected = join(parts), join(clips)
    assert len(clips) == 13 and [part.frames for part in parts] == [96, 8]  # a small one waits beside a larger
    assert whole.clips == expected.clips == [8] * 13 and whole.frames == expected.frames == 104
    for name in ("tokens", "frame", "position", "kind", "mass"):
        assert torch.equal(getattr(whole, name), getattr(expected, name))


def test_a_clip_without_budget_waits_for_the_next(make_video):
    """A hundredth of nine tokens a frame: one token at once, the second when 23 frames are in; the rest has none."""
    video = make_video(30, (6, 6), 16)
    parts = stream(video, AOTConfig(retention=0.01, clip_length=2), pushes=1)
    assert [(part.frames, len(part.tokens)) for part in parts] == [(2, 1), (22, 1), (6, 0)]
    assert int(parts[0].frame) < 2 <= int(parts[1].frame) < 24
    assert parts[1].clips == [22] and float(parts[1].mass) == 22 * 9


def test_bad_values_of_any_part_are_remembered(make_video, monkeypatch):
    """As on a device: masks of all parts, under the frames of the whole stream."""
    monkeypatch.setattr("aot.validation.HOST_DEVICES", ())
    features, shallow, deep = make_video(19, (6, 6), 16)
    shallow[17, 3] = -1
    whole = join(stream((features, shallow, deep), AOTConfig(retention=0.3, attention_power=0.5), pushes=5))
    with pytest.raises(AOTError, match="^shallow cannot be used at 1 of 684 places, first in frame 17 at token 3"):
        whole.check()
    parts: list = []
    for part in stream((features, shallow, deep), AOTConfig(retention=0.3, attention_power=0.5), pushes=5):
        append_parts(parts, [part])
    assert {name: mask.tolist() for name, mask in join(parts).usable.items()} == {
        name: mask.tolist() for name, mask in whole.usable.items()
    }


def test_masks_of_parts_that_read_different_things(make_video, monkeypatch):
    """A part that keeps all its tokens reads no importance; the frame before a part belongs to the first alone."""
    monkeypatch.setattr("aot.validation.HOST_DEVICES", ())
    features, shallow, deep = make_video(6, (6, 6), 16)
    features[1, 0], deep[5, 7] = torch.nan, torch.nan
    settings = {"pool": None, "before": features[1:2]}
    first = compress(features[:2], None, None, AOTConfig(method="uniform", retention=0.5), pool=None)
    second = compress(features[2:], shallow[2:], deep[2:], AOTConfig(attention_power=0.5), **settings)
    usable = join([first, replace(second, first_frame=2)]).usable
    assert usable.keys() == {"features", "shallow", "deep"}
    assert all(mask.shape == (6, 36) for mask in usable.values())
    assert (~usable["features"]).nonzero().tolist() == [[1, 0]] and (~usable["deep"]).nonzero().tolist() == [[5, 7]]
    behind = replace(first, first_frame=second.frames)
    assert join([second, behind]).usable["before"].tolist() == second.usable["before"].tolist()


def test_parts_that_do_not_go_on_are_refused(make_video):
    """Two videos number their frames from 0, so that joined they would be one whose frames come twice."""
    video = make_video(24, (6, 6), 16)
    whole = compress(*video, AOTConfig())
    with pytest.raises(AOTError, match="begins with frame 0 does not go on behind one that ends before frame 24; join"):
        join([whole, whole])
    first, second, third = stream(video, {"retention": 0.3, "clip_length": 8}, pushes=5)
    for parts in ([first, third], [second, first], [first, first]):
        with pytest.raises(AOTError, match="join the clips of one stream in their order"):
            join(parts)
    later = join([second, third])
    assert later.first_frame == 8 and torch.equal(join([first, later]).frame, join([first, second, third]).frame)


def test_a_push_of_what_does_not_belong_together_is_refused(make_video):
    """Importance of more frames than features would be that of later ones, for good."""
    features, shallow, deep = make_video(12, (3, 3), 8)
    stream = VideoStream(AOTConfig(retention=0.3, attention_power=4), pool=None)
    with pytest.raises(AOTError, match="shallow has 9 frames and features 6; push as many of each"):
        stream.push(features[:6], shallow[:9], deep[:9])
    for name in ("features", "shallow"):
        with pytest.raises(AOTError, match=f"{name} is given twice"):
            stream.push(features[:6], shallow[:6], deep[:6], extras={name: features[:6]})
    parts = stream.push(features[:6], shallow[:6], deep[:6])  # a refused push has changed nothing
    video = join([*parts, *stream.push(features[6:], shallow[6:], deep[6:]), *stream.finish()])
    whole = compress(features, shallow, deep, stream.config, pool=None)
    assert torch.equal(video.position, whole.position)


@pytest.mark.parametrize(("position", "newlines"), [("one_token", 1), ("frame", 9), ("no_token", 0)])
def test_a_last_clip_without_tokens_leaves_its_newlines(make_video, position, newlines):
    settings = {"newline": NEWLINE, "newline_position": position}
    config = AOTConfig(retention=0.03, clip_length=4)  # a token for 8 frames of 9, none more for the ninth
    whole = join(stream(make_video(9, (6, 6), 16), config, pushes=9, **settings))
    assert (whole.num_visual, whole.num_newlines, whole.frames) == (config.budget(9, 9), newlines, 9)
    assert whole.clips[-1] == 1 and (newlines == 0 or int(whole.frame[-1]) == 8)


def test_a_push_that_fails_takes_nothing_and_names_the_frame(make_video):
    features, shallow, deep = make_video(20, (6, 6), 16)
    config = AOTConfig(retention=0.3)
    ours, bad = VideoStream(config), features.clone()
    bad[13, 5] = torch.nan
    parts = ours.push(features[:7], shallow[:7], deep[:7])
    with pytest.raises(AOTError, match="first in frame 13 at token"):
        ours.push(bad[7:], shallow[7:], deep[7:])
    parts += [*ours.push(features[7:], shallow[7:], deep[7:]), *ours.finish()]
    expected = compress(features, shallow, deep, config)
    assert torch.equal(join(parts).frame, expected.frame) and torch.equal(join(parts).tokens, expected.tokens)


def test_a_live_push_that_fails_takes_nothing(make_video):
    features, shallow, deep = make_video(80, (6, 6), 16)
    config, bad = AOTConfig(retention=0.5, max_tokens=64), features.clone()
    bad[71, 5] = torch.inf
    ours, other = LiveStream(config), LiveStream(config)
    for each in (ours, other):
        each.push(features[:30], shallow[:30], deep[:30])
    with pytest.raises(AOTError, match="first in frame 71"):
        ours.push(bad[30:], shallow[30:], deep[30:])
    for each in (ours, other):
        each.push(features[30:], shallow[30:], deep[30:])
    assert torch.equal(ours.video().tokens, other.video().tokens) and ours.video().frames == 80


@pytest.mark.parametrize("method", ["holitom", "unicomp"])
def test_a_clip_of_a_stream_is_compressed_as_its_retention_says(make_video, method):
    """Both read the retention itself; a clip's is that of its budget, not a little more."""
    features, shallow, _ = make_video(8, (10, 10), 16)
    extras = {"attention_last": shallow + 0.1} if method == "holitom" else {"keys": features}
    config = AOTConfig(method=method, retention=0.1, clip_length=8)
    ours = VideoStream(config, pool=None)
    (part,) = [*ours.push(features, extras=extras), *ours.finish()]
    whole = compress(features, config=config, extras=extras, pool=None)
    assert torch.equal(part.frame, whole.frame) and torch.equal(part.tokens, whole.tokens)


def test_groups_of_clips_name_the_frame_of_the_video(make_video, monkeypatch):
    monkeypatch.setattr("aot.methods.aot.COST_BYTES", 1)
    features, _, _ = make_video(12, (6, 6), 16)
    features[9, 3] = torch.nan
    with pytest.raises(AOTError, match="first in frame 9 at token"):
        compress(features)
