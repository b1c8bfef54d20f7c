"""A distortion: a clip keeps as few tokens as it takes until its tokens cost less than that on average."""

import pytest
import torch

from aot import AOTConfig, AOTError, LiveStream, VideoStream, compress, join
from aot.ops import fewest_below

GRID = (5, 5)


def run(make_video, distortion=None, *, frames=8, trace=False, **changes):
    features, shallow, deep = make_video(frames, GRID, 8)
    config = AOTConfig(distortion=distortion, **{"retention": 0.5, **changes})
    return compress(features, shallow, deep, config, pool=None, grid=GRID, trace=trace)


def places(video):
    return {(int(f), *map(int, p)) for f, p in zip(video.frame, video.position, strict=True)}


def test_greedy_by_hand():
    cost = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))
    cost = (cost + cost.transpose(1, 2)).masked_fill(torch.eye(7, dtype=torch.bool), 0)
    weight = torch.rand(3, 7, generator=torch.Generator().manual_seed(1))
    selected = torch.tensor([[1, 1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0, 0], [1] * 7]).bool()
    for most in (10.0, 0.3, 0.2, 0.1, 1e-9):
        taken, curve = fewest_below(cost, weight, selected, most)
        for problem in range(3):
            allowed, chosen, left, best = selected[problem].nonzero().flatten().tolist(), [], [], None
            while allowed and (not left or left[-1] >= most):
                now = {j: cost[problem, j] if best is None else best.minimum(cost[problem, j]) for j in allowed}
                mean = {j: float((c * weight[problem]).sum() / weight[problem].sum()) for j, c in now.items()}
                j = min(mean, key=mean.get)
                best = now[j]
                left.append(mean[j])
                chosen.append(j)
                allowed.remove(j)
            assert taken[problem].nonzero().flatten().tolist() == sorted(chosen)
            assert curve[problem, : len(left)].tolist() == pytest.approx(left, abs=1e-6)
            assert (curve[problem, len(left) :] == curve[problem, len(left) - 1]).all()


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 60}, {"retention": 1.0}, {"clips": "dynamic"}])
def test_fewer_of_the_same_tokens_the_larger_it_is(make_video, changes):
    whole = run(make_video, **changes)
    before = run(make_video, 1e-9, **changes)
    assert places(before) == places(whole) and before.bound == whole.bound and before.config.distortion == 1e-9
    torch.testing.assert_close(before.tokens, whole.tokens)
    for distortion in (0.05, 0.1, 0.2, 0.3, 0.5, 3.0):
        video = run(make_video, distortion, trace=True, **changes)
        assert places(video) <= places(before) and video.num_visual <= whole.num_visual
        assert video.bound == ("distortion" if video.num_visual < whole.num_visual else whole.bound)
        assert float(video.mass.sum()) == pytest.approx(video.tokens_before, rel=1e-5)
        # what each clip is left at: below the distortion, unless the bound came first
        last = video.trace["cost_curve"][:, -1]
        full = [c for c, cost in enumerate(last.tolist()) if cost >= distortion]
        for clip in full:
            first = sum(video.clips[:clip])
            span = range(first, first + video.clips[clip])
            assert sum(place[0] in span for place in places(video)) == sum(p[0] in span for p in places(whole))
        before = video
    assert before.num_visual == len(before.clips) and before.bound == "distortion"  # a token a clip at least


def test_a_still_clip_keeps_fewer_than_one_that_moves(make_video):
    features, shallow, deep = make_video(8, GRID, 8)
    features[:4], shallow[:4], deep[:4] = features[0], shallow[0], deep[0]
    config = AOTConfig(retention=0.9, distortion=0.05, temporal_weight=0.01)
    video = compress(features, shallow, deep, config, pool=None, grid=GRID)
    counts = [int((video.frame // 4 == clip).sum()) for clip in (0, 1)]
    assert video.clips == [4, 4] and counts[0] <= 25 and 50 < counts[1] <= 90


def test_a_stream_gives_the_tokens_of_the_whole(make_video):
    features, shallow, deep = make_video(16, GRID, 8)
    for changes in ({"retention": 0.4}, {"max_tokens": 120}):
        config = AOTConfig(distortion=0.4, **changes)
        stream, parts = VideoStream(config, pool=None, grid=GRID, frames=16), []
        for t in range(16):
            parts += stream.push(features[t : t + 1], shallow[t : t + 1], deep[t : t + 1])
        video = join([*parts, *stream.finish()])
        whole = compress(features, shallow, deep, config, pool=None, grid=GRID)
        assert places(video) == places(whole) and video.bound == whole.bound == "distortion"
        assert video.budget == whole.budget == config.budget(16, 25)
        assert whole.summary()["bound"] == "distortion" and whole.summary()["tokens_after"] == len(places(video))
        assert all(part.bound == "distortion" for part in parts if part.num_visual < part.budget)


def test_a_live_video_says_which_bound_holds_now(make_video):
    features, shallow, deep = make_video(16, GRID, 8)
    bounds = []
    for distortion, most in ((0.3, 390), (1e-9, 390), (1e-9, 100)):
        stream = LiveStream({"distortion": distortion, "max_tokens": most}, pool=None, grid=GRID)
        for start in range(0, 16, 4):
            stream.push(*(values[start : start + 4] for values in (features, shallow, deep)))
            video = stream.video()
            assert video.num_visual <= min(most, video.tokens_before)
        bounds.append(video.bound)
    assert bounds == ["distortion", "max_tokens", "max_tokens"]


def test_where_it_cannot_be_had():
    for settings in ({"method": "visionzip"}, {"method": "fastv"}, {"variant": "paper", "num_anchors": 9}):
        with pytest.raises(AOTError, match="distortion has no effect"):
            AOTConfig(distortion=0.2, **settings)
    for value in (0, -1, float("nan"), "little"):
        with pytest.raises(AOTError, match="distortion"):
            AOTConfig(distortion=value)
    with pytest.raises(AOTError, match="count depends on the video"):
        AOTConfig(distortion=0.2).token_count(8, 25)
    assert AOTConfig(distortion=0.2).budget(8, 25) == 20  # of the default share, at most
