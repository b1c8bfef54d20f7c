"""Costs that are held at once stay within a bound, whatever the video."""

import math

import pytest
import torch

from aot import AOTConfig, AOTError, VideoStream, compress, join
from aot.clips import MAX_CLIP_TOKENS
from aot.ops import pair_cost


def held_at_most(monkeypatch) -> list[int]:
    """Bytes of the costs of each group of clips, as they are made."""
    made = []

    def record(*arguments, **settings):
        cost = pair_cost(*arguments, **settings)
        made.append(cost.nbytes)
        return cost

    monkeypatch.setattr("aot.methods.aot.pair_cost", record)
    return made


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"uniform_marginal": 0.5},
        {"retention": 0.02},
        {"clips": "dynamic", "clip_cuts": 4, "clip_threshold": -1.0},
        {"clip_length": 5},
    ],
    ids=str,
)
def test_groups_of_clips_give_what_all_at_once_give(make_video, monkeypatch, settings):
    features, shallow, deep = make_video(41, (6, 6), 16)
    config = AOTConfig(**{"retention": 0.2} | settings)
    before = torch.randn(1, 36, 16, generator=torch.Generator().manual_seed(5))
    expected = compress(features, shallow, deep, config, pool=None, before=before, trace=True)
    made = held_at_most(monkeypatch)
    bound = 4 * 3 * (max(expected.clips) * 36) ** 2  # three clips
    monkeypatch.setattr("aot.methods.aot.COST_BYTES", bound)
    video = compress(features, shallow, deep, config, pool=None, before=before, trace=True)
    assert len(made) == math.ceil(len(expected.clips) / 3) > 2 and max(made) <= bound
    for name in ("frame", "position", "kind"):
        assert torch.equal(getattr(video, name), getattr(expected, name))
    torch.testing.assert_close(video.tokens, expected.tokens, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(video.mass, expected.mass, rtol=1e-6, atol=1e-6)
    assert video.clips == expected.clips and video.trace.keys() == expected.trace.keys()
    # what is padding holds other numbers
    masks = {"anchor": video.trace["anchor"] > 0, "cost": video.trace["plan"] > 0}
    masks["supplier"] = video.trace["plan"].sum(2) > 0
    for name, value in video.trace.items():
        mask = masks.get(name, True)
        torch.testing.assert_close(value * mask, expected.trace[name] * mask, rtol=1e-5, atol=1e-5)


def test_a_stream_is_the_whole_video_in_groups(make_video, monkeypatch):
    features, shallow, deep = make_video(24, (6, 6), 16)
    monkeypatch.setattr("aot.methods.aot.COST_BYTES", 4 * 2 * 144**2)
    config = AOTConfig(retention=0.3)
    whole = compress(features, shallow, deep, config, pool=None)
    stream = VideoStream(config, pool=None)
    parts = [
        part for i in range(0, 24, 5) for part in stream.push(features[i : i + 5], shallow[i : i + 5], deep[i : i + 5])
    ]
    streamed = join(parts + stream.finish())
    assert torch.equal(streamed.frame, whole.frame) and torch.equal(streamed.position, whole.position)
    torch.testing.assert_close(streamed.tokens, whole.tokens)


def test_bad_values_are_remembered_in_every_group(make_video, monkeypatch):
    features, shallow, deep = make_video(24, (6, 6), 16)
    monkeypatch.setattr("aot.methods.aot.COST_BYTES", 4 * 2 * 144**2)
    monkeypatch.setattr("aot.validation.HOST_DEVICES", ())
    deep[21, 3] = torch.nan
    video = compress(features, shallow, deep, AOTConfig(attention_power=0.5), pool=None)
    with pytest.raises(AOTError, match="deep cannot be used at 1 of 864 places, first in frame 21"):
        video.check()


@pytest.mark.parametrize(
    ("frames", "settings", "advice"),
    [
        (512, {"retention": 1e-5}, "raise retention to 0.00013 or more"),
        (512, {"clip_length": 512}, "set clip_length to 41 or less"),
        (512, {"clip_length": 42}, "set clip_length to 41 or less"),
        (64, {"clips": "dynamic", "clip_threshold": -1, "clip_cuts": 1, "clip_length": 64}, "set clip_length to 41"),
    ],
)
def test_a_clip_too_long_to_compare_is_refused(frames, settings, advice):
    features, importance = torch.randn(1, 196, 4).expand(frames, -1, -1), torch.ones(frames, 196)
    with pytest.raises(AOTError, match=advice) as error:
        compress(features, importance, importance, AOTConfig(**settings), pool=None)
    assert "\n" not in str(error.value)


def test_the_advice_holds_and_the_limit_is_met_exactly():
    features, importance = torch.randn(512, 196, 4), torch.ones(512, 196)
    video = compress(features, importance, importance, AOTConfig(retention=0.00013), pool=None)
    assert video.num_visual == 13 and max(video.clips) <= 41
    assert MAX_CLIP_TOKENS == 8192 and 41 * 196 <= MAX_CLIP_TOKENS < 42 * 196


def test_one_frame_may_be_as_large_as_a_clip():
    config, maps = AOTConfig(retention=1e-9), torch.ones(2, 1, 8193)
    assert compress(torch.randn(1, 8192, 2), *maps[..., :8192], config, pool=None, grid=(64, 128)).num_visual == 1
    with pytest.raises(AOTError, match="pool the frames"):
        compress(torch.randn(1, 8193, 2), *maps, config, pool=None, grid=(3, 2731))


def test_all_tokens_need_no_costs():
    features, importance = torch.randn(64, 196, 2), torch.ones(64, 196)
    assert compress(features, importance, importance, AOTConfig(retention=1.0, clip_length=64), pool=None).num_visual


def test_a_stream_whose_budget_never_comes_does_not_grow():
    stream = VideoStream(AOTConfig(retention=1e-9), pool=None)
    with pytest.raises(AOTError, match="raise retention"):
        for _ in range(20):
            stream.push(torch.randn(8, 196, 2), torch.ones(8, 196), torch.ones(8, 196))
