"""Budgets: a share, a number of tokens, the smaller of the two, in a whole video and in a stream."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot import AOTConfig, AOTError, VideoStream, compress, join, method_names
from aot.registry import get_method

METHODS = [name for name in method_names() if not get_method(name).in_llm]
FRAMES, GRID = 8, (5, 5)  # 200 tokens, so that a number of them is a decimal share


def tensors(make_video, frames=FRAMES, grid=GRID):
    features, shallow, deep = make_video(frames, grid, 8)
    return features, shallow, deep, {"attention_last": shallow + 0.1, "keys": features}


def run(video, config, grid=GRID):
    features, shallow, deep, extras = video
    return compress(features, shallow, deep, config, pool=None, extras=extras, grid=grid)


def places(video):
    return torch.cat([video.frame.unsqueeze(1), video.position], dim=1)


@settings(max_examples=300, deadline=None)
@given(
    frames=st.integers(1, 4000),
    per_frame=st.integers(1, 1000),
    most=st.integers(1, 10**7),
    retention=st.none() | st.floats(1e-6, 1.0),
)
def test_the_smaller_bound_holds(frames, per_frame, most, retention):
    config, total = AOTConfig(max_tokens=most, retention=retention), frames * per_frame
    share = total if retention is None else AOTConfig(retention=retention).budget(frames, per_frame)
    budget = config.budget(frames, per_frame)
    assert budget == min(share, most, total) == config.token_count(frames, per_frame)[0]
    assert budget <= config.replace(max_tokens=most + 1).budget(frames, per_frame) <= budget + 1
    expected = "all" if budget == total else "retention" if budget == share else "max_tokens"
    assert config.bound(frames, per_frame) == expected
    # shared out: the same in all, never more on the way, and as even as whole numbers allow where max_tokens decides
    shared = config.on_video(frames, per_frame)
    assert shared.budget(frames, per_frame) == budget and shared.retention is not None
    if expected == "max_tokens":
        half = (frames + 1) // 2
        assert shared.budget(half, per_frame) == max(1, budget * half // frames)


def test_a_number_of_tokens_says_no_share():
    config = AOTConfig(max_tokens=500)
    assert config.retention is None and AOTConfig().retention == 0.1 and AOTConfig(retention=None) == AOTConfig()
    assert [config.budget(frames, 100) for frames in (1, 4, 5, 6, 10**6)] == [100, 400, 500, 500, 500]
    assert [config.bound(frames, 100) for frames in (5, 6)] == ["all", "max_tokens"]
    both = config.replace(retention=0.1)
    assert [both.bound(frames, 100) for frames in (1, 50, 51)] == ["retention", "retention", "max_tokens"]
    assert AOTConfig.preset("released").bound(32, 196) == "num_anchors"
    for setting in (config, both):
        assert AOTConfig.from_dict(json.loads(json.dumps(setting.to_dict()))) == setting


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_what_it_keeps_of_that_share(make_video, method):
    video = tensors(make_video)
    for most in (1, 13, 50, 199):
        ours = run(video, {"method": method, "max_tokens": most})
        expected = run(video, {"method": method, "retention": most / 200})
        assert ours.num_visual == most and ours.bound == "max_tokens" == ours.summary()["bound"]
        assert torch.equal(places(ours), places(expected)) and torch.equal(ours.tokens, expected.tokens)
        assert ours.config == AOTConfig(method=method, max_tokens=most)
    for settings_, bound in (({"max_tokens": 200}, "all"), ({"max_tokens": 60, "retention": 0.25}, "retention")):
        ours = run(video, {"method": method, **settings_})
        expected = run(video, {"method": method, "retention": settings_.get("retention", 1.0)})
        assert ours.bound == bound and torch.equal(ours.tokens, expected.tokens)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("frames", "grid"), [(7, (3, 5)), (3, (7, 4))])
def test_never_more_than_max_tokens_whatever_the_length(make_video, method, frames, grid):
    video = tensors(make_video, frames, grid)
    total = frames * grid[0] * grid[1]
    counts = [run(video, {"method": method, "max_tokens": most}, grid).num_visual for most in (2, 17, 53, total + 5)]
    assert counts == [2, 17, 53, total]


@pytest.mark.parametrize("changes", [{"clips": "dynamic"}, {"uniform_marginal": 0.5}, {"global_ratio": 0.0}])
def test_variants_of_the_default_hold_it(make_video, changes):
    assert run(tensors(make_video), {"max_tokens": 37, **changes}).num_visual == 37


@pytest.mark.parametrize("changes", [{}, {"retention": 0.5}, {"clip_length": 3}, {"method": "evs"}])
def test_a_stream_of_known_length_holds_it_at_every_moment(make_video, changes):
    features, shallow, deep, _ = tensors(make_video, frames=41)
    config, most = AOTConfig(max_tokens=77, **changes), 41
    stream = VideoStream(config, pool=None, frames=most)
    parts = []
    for frame in range(most):
        span = slice(frame, frame + 1)
        parts += stream.push(features[span], shallow[span], deep[span])
        seen = sum(part.frames for part in parts)
        assert sum(part.num_visual for part in parts) == (77 * seen // most if seen else 0)
    parts += stream.finish()
    video = join(parts)
    assert video.num_visual == 77 and video.bound == "max_tokens" and {part.bound for part in parts} == {"max_tokens"}
    if config.method == "aot":
        whole = compress(features, shallow, deep, config, pool=None)
        assert torch.equal(places(video), places(whole))
        torch.testing.assert_close(video.tokens, whole.tokens)
    with pytest.raises(AOTError, match="41 frames and more came; raise frames"):
        VideoStream(config, pool=None, frames=41).push(*(torch.cat([x, x]) for x in (features, shallow, deep)))


def test_a_stream_that_ends_early_keeps_its_share(make_video):
    features, shallow, deep, _ = tensors(make_video, frames=12)
    stream = VideoStream(AOTConfig(max_tokens=60), pool=None, frames=24)
    video = join([*stream.push(features, shallow, deep), *stream.finish()])
    assert video.num_visual == 30 and video.bound == "max_tokens"


def test_a_stream_of_unknown_length_is_refused():
    with pytest.raises(AOTError, match="does not know its length; give frames"):
        VideoStream({"max_tokens": 9})
    with pytest.raises(AOTError, match="frames is 0"):
        VideoStream({"max_tokens": 9}, frames=0)


def test_too_few_tokens_for_the_clips_are_said():
    features = torch.randn(64, 196, 2)
    with pytest.raises(AOTError, match="keep 2 tokens or more of such 64 frames"):
        compress(features, torch.ones(64, 196), torch.ones(64, 196), {"max_tokens": 1}, pool=None)
    assert compress(features, torch.ones(64, 196), torch.ones(64, 196), {"max_tokens": 2}, pool=None).num_visual == 2
