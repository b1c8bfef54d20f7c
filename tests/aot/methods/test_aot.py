"""The steps of the default against sums worked out by hand, in plain float64 Python."""

import math

import numpy as np
import pytest
import torch

from aot import AOTConfig, TokenKind, compress
from aot.budget import clip_budgets
from aot.clips import clip_layout
from aot.methods.aot import aot, transport
from aot.ops import facility_location, pair_cost
from aot.types import VideoTokens

FRAME = np.array([[1.0, 0.2, 0.0], [0.3, 1.0, 0.1], [0.9, 0.5, 0.3], [0.1, 0.8, 0.6]])


def cosine(a, b):
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def transported(video, index, lengths, config):
    """The default's transport onto given tokens, without its choice."""
    per_frame, longest = video.tokens_per_frame, max(lengths)
    ends = torch.tensor(lengths).cumsum(0) * per_frame
    counts = torch.searchsorted(index, ends).diff(prepend=torch.tensor([0])).tolist()
    device, grid = index.device, video.pooled_grid
    layout = clip_layout(tuple(lengths), tuple(counts), grid, config.global_ratio, device, frames=longest)
    kept = torch.zeros(video.frames * per_frame, dtype=torch.bool).index_fill(0, index, True)
    weights = {"spatial_weight": config.spatial_weight, "temporal_weight": config.temporal_weight}
    cost = pair_cost(video.pooled, layout.start_frame, longest, grid=grid, **weights)
    return transport(video, cost, kept[layout.token_index] & layout.valid, index, layout, float(cost.max()), config)


def test_default_merge_by_hand():
    """Default transport of one frame: suppliers spread by softmax(-C/ε), share of others capped."""
    config = AOTConfig(
        retention=0.5,
        spatial_weight=0.2,
        epsilon=0.1,
        merge_cap=0.4,
        merge_strength=0.3,
    )
    features = torch.tensor(FRAME, dtype=torch.float32)[None]
    video = VideoTokens(features, None, None, (2, 2), None)
    tokens, mass, _ = transported(video, torch.tensor([0, 3]), [1], config)
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    received, carried = np.zeros(2), np.zeros((2, 3))
    for i in (1, 2):
        cost = np.array([1 - cosine(FRAME[i], FRAME[j]) + 0.2 * math.dist(places[i], places[j]) for j in (0, 3)])
        spread = np.exp(-cost / 0.1) / np.exp(-cost / 0.1).sum()
        received += spread
        carried += spread[:, None] * FRAME[i]
    shares = np.minimum(0.4, 0.3 * received / (1 + 0.3 * received))[:, None]
    expected = (1 - shares) * FRAME[[0, 3]] + shares * carried / received[:, None]
    np.testing.assert_allclose(tokens.double().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(mass.double().numpy(), 1 + received, rtol=1e-5)


@pytest.mark.parametrize("uniform_marginal", [0.0, 0.5, 1.0])
def test_clip_plans_meet_their_marginals(make_video, uniform_marginal):
    sinkhorn = {"iterations": 400, "tolerance": 5e-4} if uniform_marginal else {}
    config = AOTConfig(retention=0.2, uniform_marginal=uniform_marginal, clip_length=3, epsilon=0.1, **sinkhorn)
    video = compress(*make_video(8, (6, 6), 8), config, pool=None, trace=True)
    plan, supplier, anchor = (video.trace[key] for key in ("plan", "supplier", "anchor"))
    flat = video.frame * 36 + video.position[:, 0] * 6 + video.position[:, 1]
    assert video.clips == [3, 3, 2] and plan.shape[0] == 3
    for clip, (start, stop) in enumerate([(0, 108), (108, 216), (216, 288)]):
        here = flat[(flat >= start) & (flat < stop)]
        rows = torch.arange(start, start + 108)
        supply = torch.where((rows < stop) & ~torch.isin(rows, here), 1.0, 0.0)
        assert torch.equal(anchor[clip, : len(here)], here)
        assert torch.equal(supplier[clip][supply > 0], rows[supply > 0])
        torch.testing.assert_close(plan[clip].sum(1), supply, rtol=1e-3, atol=1e-6)
        if uniform_marginal == 1:
            each = float(supply.sum()) / len(here)
            torch.testing.assert_close(
                plan[clip, :, : len(here)].sum(0), torch.full((len(here),), each), rtol=1e-3, atol=0
            )


@pytest.mark.parametrize("uniform_marginal", [0.0, 1.0])
def test_permuting_the_tokens_of_a_frame_that_are_not_kept_changes_nothing(make_video, uniform_marginal):
    """As long as the cost does not look at their places."""
    features, _, _ = make_video(4, (6, 6), 8)
    config = AOTConfig(uniform_marginal=uniform_marginal, epsilon=0.1, spatial_weight=0)
    index = torch.tensor([3, 20, 50, 70, 71, 72, 100, 143])
    free = torch.tensor([i for i in range(144) if i not in index.tolist()])
    order = torch.arange(144)
    for frame in range(4):
        here = free[free // 36 == frame]
        order[here] = here[torch.randperm(len(here), generator=torch.Generator().manual_seed(0))]

    def run(tokens):
        video = VideoTokens(tokens, None, None, (6, 6), None)
        return transported(video, index, [2, 2], config)[:2]

    for value, moved in zip(run(features), run(features.flatten(0, 1)[order].view_as(features)), strict=True):
        torch.testing.assert_close(moved, value, rtol=1e-4, atol=1e-5)


def test_the_choice_and_the_transport_know_a_bound_of_the_cost(make_video, monkeypatch):
    """Opposite tokens at opposite corners, three frames apart, cost the bound exactly."""
    bounds = []

    def record(cost, *arguments, max_cost, **settings):
        bounds.append((float(cost.max()), max_cost))
        return facility_location(cost, *arguments, max_cost=max_cost, **settings)

    monkeypatch.setattr("aot.methods.aot.facility_location", record)
    features = torch.ones(4, 4, 3)
    features[3, 3] = -1
    compress(features, *torch.ones(2, 4, 4), AOTConfig(spatial_weight=0.5, temporal_weight=0.3), pool=None)
    assert bounds and all(highest == pytest.approx(bound, rel=1e-6) for highest, bound in bounds)


def test_clips_do_not_touch_each_other(make_video):
    """A batch of clips equals each clip alone (same choice of tokens)."""
    features, shallow, deep = make_video(6, (6, 6), 8)
    index = torch.tensor([1, 30, 70, 110, 140, 180, 200, 215])
    for uniform_marginal in (0.0, 0.5):
        config = AOTConfig(uniform_marginal=uniform_marginal, iterations=50 if uniform_marginal else 100)
        whole = VideoTokens(features, shallow, deep, (6, 6), None)
        tokens, mass, _ = transported(whole, index, [3, 3], config)
        for start in (0, 3):
            part = VideoTokens(features[start : start + 3], None, None, (6, 6), None)
            own = index[(index >= start * 36) & (index < (start + 3) * 36)]
            inside = torch.isin(index, own)
            alone = transported(part, own - start * 36, [3], config)
            torch.testing.assert_close(tokens[inside], alone[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mass[inside], alone[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("clips", "retention", "expected"),
    [
        ([4, 4], 0.1, [3, 4]),  # ⌊3.6⌋ and ⌊7.2⌋ - 3
        ([1, 2], 0.1, [1, 1]),  # ⌊0.9⌋ is at least 1, ⌊2.7⌋ - 1
        ([1, 1, 5], 0.1, [1, 1, 4]),  # ⌊1.8⌋ adds none to 1, and 6 - 1 are left: one goes to the second clip
        ([1, 5, 1], 0.13, [1, 6, 1]),  # 1, 7, 8
        ([2, 2], 1.0, [18, 18]),
    ],
)
def test_clip_budgets_run_along(clips, retention, expected):
    assert clip_budgets(clips, 9, AOTConfig(retention=retention)) == expected


def test_default_choice_by_hand():
    """Four frames of 3x3 tokens are one clip, a place a window: at g = 0.5 nine of 18 tokens are local, none of 16."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 9, 8, generator=generator)
    shallow, deep = torch.rand(2, 4, 9, generator=generator)

    def kinds(retention, **changes):
        video = VideoTokens(features, shallow, deep, (3, 3), None)
        result = aot(video, AOTConfig(retention=retention, **changes))
        return result, (result.kind == TokenKind.LOCAL).sum()

    half = {"global_ratio": 0.5}
    assert kinds(0.5, **half)[1] == 9 and kinds(0.47, **half)[1] == 0  # 18 and 16 tokens: ⌊9/9⌋ and ⌊8/9⌋ a window
    assert kinds(0.5, global_ratio=0.0)[1] == 18 and kinds(0.5)[1] == 0
    result, _ = kinds(0.5, **half)
    places = result.position[result.kind == TokenKind.LOCAL]
    assert (places[:, 0] * 3 + places[:, 1]).sort().values.tolist() == list(range(9))


def test_one_frame_by_hand():
    """Four tokens, two directions: with unit weights the two that lose least, with attention the attended ones."""
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]])
    even, odd = torch.ones(1, 4), torch.tensor([[1.0, 5.0, 1.0, 5.0]])

    def chosen(attention, **changes):
        config = AOTConfig(retention=0.5, global_ratio=1.0, change_power=0.0, **changes)
        result = aot(VideoTokens(features, attention, attention, (2, 2), None), config)
        return (result.position[:, 0] * 2 + result.position[:, 1]).tolist()

    assert chosen(odd, attention_power=0.5) == [1, 3]
    assert chosen(odd) == chosen(even) == chosen(even, attention_power=0.5) != [1, 3]
