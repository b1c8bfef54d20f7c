"""The transport steps against sums worked out by hand, in plain float64 Python."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from aot import AOTConfig, TokenKind, compress
from aot.clips import clip_layout, default_clip_length, dynamic_clips, short_clips, uniform_clips, window_ids
from aot.compress import insert_newlines
from aot.indexing import rank_descending, true_indices
from aot.methods.aot import aot, clip_budgets, transport
from aot.methods.aot_paper import choose_anchors, intra_frame
from aot.ops import facility_location, merge, merge_clips, pair_cost
from aot.ops.inter_frame import masked_quantile
from aot.ops.pair_cost import grid_distances
from aot.types import Selection, VideoTokens


def cosine(a, b):
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def by_hand(features, anchors, *, weight, strength):
    """One frame of 2x2 tokens: Sinkhorn to the end, unit suppliers, (a + λ Σ T u) / (1 + λ m)."""
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    others = [i for i in range(4) if i not in anchors]
    cost = [
        [1 - cosine(features[i], features[j]) + weight * math.dist(places[i], places[j]) for j in anchors]
        for i in others
    ]
    kernel = np.exp(-np.array(cost) / 0.1)
    column = np.ones(2)
    for _ in range(500):
        row = 1 / (kernel @ column)
        column = 1 / (row @ kernel)
    plan = row[:, None] * kernel * column
    merged = []
    for j, anchor in enumerate(anchors):
        carried = sum(plan[i, j] * features[other] for i, other in enumerate(others))
        merged.append((features[anchor] + strength * carried) / (1 + strength * plan[:, j].sum()))
    return np.array(merged)


FRAME = np.array([[1.0, 0.2, 0.0], [0.3, 1.0, 0.1], [0.9, 0.5, 0.3], [0.1, 0.8, 0.6]])


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_intra_frame_merge_by_hand(strength):
    def run(value):
        config = AOTConfig.preset(
            "paper",
            num_anchors=2,
            source_mass="unit",
            spatial_weight=0.5,
            merge_strength=value,
            iterations=300,
        )
        features = torch.tensor(FRAME, dtype=torch.float32)[None]
        return intra_frame(features, torch.tensor([[0, 3]]), (2, 2), config, torch.ones(1, 4))[0][0].double().numpy()

    expected = by_hand(FRAME, [0, 3], weight=0.5, strength=strength)
    np.testing.assert_allclose(run(strength), expected, rtol=1e-4)
    # a merge weight that is wrong by 1 % is far outside that tolerance
    assert np.abs(run(1.01 * strength) / expected - 1).max() > 5e-4


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


def test_merge_weight_is_sensitive_to_one_percent():
    kept, carried, mass = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 6.0]]), torch.tensor([3.0])
    # (2, 0) + 0.5·(0, 6) over 1 + 1.5
    expected = torch.tensor([[0.8, 1.2]])
    torch.testing.assert_close(merge(kept, carried, mass, strength=0.5, cap=1.0), expected)
    off = merge(kept, carried, mass, strength=0.505, cap=1.0)
    assert ((off - expected).abs() > 3e-3 * expected).all()
    torch.testing.assert_close(merge(kept, carried, mass, strength=0.5, cap=0.25), torch.tensor([[1.5, 0.5]]))


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


def test_permuting_non_anchors_changes_nothing_in_the_paper_preset(make_video):
    features = make_video(2, (6, 6), 8)[0]
    config = AOTConfig.preset("paper", num_anchors=9)
    anchor = torch.tensor([[0, 5, 9, 14, 20, 21, 28, 30, 35]] * 2)
    free = [i for i in range(36) if i not in anchor[0].tolist()]
    order = torch.arange(36)
    order[free] = torch.tensor(free[::-1])
    merged = intra_frame(features, anchor, (6, 6), config, torch.ones(2, 36))[0]
    moved = intra_frame(features[:, order], anchor, (6, 6), config, torch.ones(2, 36))[0]
    torch.testing.assert_close(moved, merged, rtol=1e-5, atol=1e-6)


def test_suppliers_share_the_mass_by_importance():
    """Rows of the plan are importance over its mean among the suppliers, so the total stays their count."""
    config = AOTConfig.preset("paper", num_anchors=2, source_mass="attention", iterations=300)
    importance = torch.tensor([[9.0, 1.0, 3.0, 5.0]])
    features = torch.tensor(FRAME, dtype=torch.float32)[None]
    plan = intra_frame(features, torch.tensor([[0, 3]]), (2, 2), config, importance)[1]
    torch.testing.assert_close(plan[0].sum(1), torch.tensor([0.0, 0.5, 1.5, 0.0]), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(plan[0].sum(0), torch.tensor([1.0, 1.0]), rtol=1e-3, atol=1e-6)


def test_cost_of_a_clip_by_hand(make_video):
    """1 - cos, the distance of places on sides of length 1 and the frames in between, each with its weight."""
    features = make_video(5, (2, 2), 8)[0]
    weights = {"spatial_weight": 0.5, "temporal_weight": 0.3}
    cost = pair_cost(features, torch.tensor([0, 3]), 3, grid=(2, 2), **weights)
    unit = torch.nn.functional.normalize(features.double().flatten(0, 1), dim=1)
    for clip, (first, frames) in enumerate([(0, 3), (3, 2)]):
        for i in range(4 * frames):
            for j in range(4 * frames):
                far = ((i // 2 % 2 - j // 2 % 2) ** 2 + (i % 2 - j % 2) ** 2) ** 0.5
                expected = 1 - float(unit[4 * first + i] @ unit[4 * first + j])
                expected += 0.5 * far + 0.3 * abs(i // 4 - j // 4)
                assert float(cost[clip, i, j]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


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


def inter_frame_settings(config):
    return {
        "epsilon": config.epsilon,
        "iterations": config.iterations,
        "stop": "never",
        "tolerance": config.tolerance,
        "temporal_sigma": config.temporal_sigma,
        "keep_ratio": config.keep_ratio,
        "threshold": config.dynamic_threshold,
        "strength": config.inter_scale,
        "cap": config.merge_cap,
    }


def test_inter_frame_merge_by_hand():
    """Two anchors, then two frames of three tokens; quantile rule; float64 recomputation."""
    first = np.array([[1.0, 0.1], [0.0, 1.0]])
    frames = [
        np.array([[0.9, 0.3], [0.5, 0.6], [0.1, 0.8]]),
        np.array([[0.2, 1.0], [1.0, 0.4], [0.6, 0.7]]),
    ]
    config = AOTConfig.preset(
        "released", num_anchors=2, sinkhorn_stop="never", iterations=200, keep_ratio=0.4, inter_scale=0.7
    )
    tokens = torch.tensor(np.stack([np.vstack([first, [[5.0, 5.0]]]), *frames]), dtype=torch.float32)
    present = torch.ones(1, 3, 3, dtype=torch.bool)
    present[0, 0, 2] = False  # padding, whatever lies there
    chain = merge_clips(tokens[None], present, present.float(), **inter_frame_settings(config))
    anchors, merged = first, 0
    for step, frame in enumerate(frames, start=1):
        cost = np.array([[1 - cosine(x, y) for y in anchors] for x in frame])
        cost = (cost - cost.min()) * (1 - math.exp(-(step**2) / (2 * 1.5**2)))
        kernel, column = np.exp(-cost / 0.1), np.ones(2)
        for _ in range(500):
            row = (1 / 3) / (kernel @ column)
            column = (1 / 2) / (row @ kernel)
        plan = row[:, None] * kernel * column
        plan /= plan.sum(1, keepdims=True)
        certain = plan.max(1)
        apart = certain < np.quantile(certain, 0.4)
        assert chain.dynamic[0, step].tolist() == apart.tolist()
        assert apart.sum() == 1
        plan, frame = plan[~apart], frame[~apart]
        merged += len(frame)
        anchors = (anchors + 0.7 * plan.T @ frame) / (1 + 0.7 * plan.sum(0))[:, None]
    np.testing.assert_allclose(chain.anchors[0, :2].double().numpy(), anchors, rtol=1e-4)
    assert float(chain.mass.sum()) == pytest.approx(2 + merged, rel=1e-5)


def test_a_frame_without_anchors_keeps_later_tokens_apart():
    tokens, present = torch.randn(1, 2, 3, 4), torch.tensor([[[False] * 3, [True] * 3]])
    chain = merge_clips(tokens, present, torch.ones(1, 2, 3), **inter_frame_settings(AOTConfig.preset("released")))
    assert chain.dynamic[0, 1].all() and chain.anchors.isfinite().all()


def test_masked_quantile_equals_torch():
    values = torch.rand(3, 9)
    valid = torch.arange(9) < torch.tensor([[9], [4], [1]])
    for ratio in (0.0, 0.1, 0.3, 0.77, 1.0):
        result = masked_quantile(values, valid, ratio)
        for i, n in enumerate((9, 4, 1)):
            assert float(result[i]) == pytest.approx(float(values[i, :n].double().quantile(ratio)), abs=1e-12)


def test_anchor_counts_of_the_release():
    scores = torch.rand(2, 4, 729)
    windows = window_ids((27, 27))
    for budget, expected in ((196, 90 + 98), (205, 99 + 103), (126, 63 + 63)):
        local = budget // 2
        masks = choose_anchors(local // 9, budget - local, scores[0], scores[1], windows)
        assert not (masks[0] & masks[1]).any()
        assert (masks[0] | masks[1]).sum(1).tolist() == [expected] * 4
        per_window = torch.stack([masks[0][:, windows == w].sum(1) for w in range(9)])
        assert bool((per_window == (budget // 2) // 9).all())


def test_windows_of_a_clip_hold_each_token_once():
    for grid, frames in (((6, 6), 2), ((5, 7), 3), ((3, 2), 2)):
        places = grid[0] * grid[1]
        layout = clip_layout((frames,), (frames * places,), grid, 0.0, torch.device("cpu"), frames=frames)
        windows, ids = layout.windows, window_ids(grid)
        assert windows.member[windows.valid].sort().values.tolist() == list(range(frames * places))
        assert torch.equal(windows.member.flatten()[windows.slot], torch.arange(frames * places))
        for window in range(9):
            assert bool((ids[windows.member[window][windows.valid[window]] % places] == window).all())


def test_the_worked_example_of_a_layout():
    """As the docstring of `ClipLayout` shows it: clips of 2 and 1 frames of two tokens, which keep 2 and 1."""
    layout = clip_layout((2, 1), (2, 1), (1, 2), 0.5, torch.device("cpu"), frames=2)
    assert layout.token_index.tolist() == [[0, 1, 2, 3], [4, 5, 5, 5]]
    assert layout.valid.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert layout.flat_slot.tolist() == [0, 1, 2, 3, 4, 5] and layout.start_frame.tolist() == [0, 2]
    assert layout.kept_valid.int().tolist() == [[1, 1], [1, 0]]
    assert layout.kept_index.tolist() == [[0, 1], [2, 2]] and layout.kept_slot.tolist() == [0, 1, 2]


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


def grouped(points):
    """Costs |a - b| of points on a line, as one problem."""
    points = torch.tensor(points)
    return (points[:, None] - points).abs()[None]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_facility_location_takes_one_token_of_each_group(stride):
    cost = grouped([0.0, 0.01, 0.02, 1.0, 1.01, 1.02])
    none, ones = torch.zeros(1, 6, dtype=torch.bool), torch.ones(1, 6)
    settings = {"max_steps": 2, "max_cost": 2.0, "stride": stride}
    chosen = facility_location(cost, ones, none, ~none, torch.tensor([2]), **settings)
    assert int(chosen[0, :3].sum()) == 1 and int(chosen[0, 3:].sum()) == 1
    # what is kept already is not bought twice, and what may not be chosen is not
    taken = none.index_fill(1, torch.tensor([1]), True)
    free = (~none).index_fill(1, torch.tensor([4, 5]), False)
    assert not (facility_location(cost, ones, taken, free, torch.tensor([3]), **settings) & (taken | ~free)).any()
    if stride == 1:
        assert facility_location(cost, ones, taken, free, torch.tensor([1]), **settings).nonzero().tolist() == [[0, 3]]


def test_facility_location_by_hand():
    """Weights 1, 1, 4 at 0, 1, 3, nothing kept, at most 5 a token: 5·6 less what each first token leaves."""
    cost, weight = grouped([0.0, 1.0, 3.0]), torch.tensor([[1.0, 1.0, 4.0]])
    none = torch.zeros(1, 3, dtype=torch.bool)
    for count, expected in ((1, [2]), (2, [0, 2]), (3, [0, 1, 2])):  # left: 13, 9, 5; then 1 with either, lower first
        chosen = facility_location(cost, weight, none, ~none, torch.tensor([count]), max_steps=count, max_cost=5.0)
        assert chosen[0].nonzero().flatten().tolist() == expected


def test_facility_location_meets_its_count_when_a_turn_finds_nothing_free():
    """Every other token may be chosen alone, so half of the turns pass; the largest weights fill up."""
    none = torch.zeros(2, 8, dtype=torch.bool)
    free = (torch.arange(8) % 2 == 0).expand(2, -1)
    weight = torch.arange(8.0).expand(2, -1)
    count, settings = torch.tensor([4, 2]), {"max_steps": 4, "max_cost": 2.0, "stride": 2}
    chosen = facility_location(torch.zeros(2, 8, 8), weight, none, free, count, **settings)
    assert chosen.sum(1).tolist() == [4, 2] and not (chosen & ~free).any()


def test_default_choice_by_hand():
    """Four frames of 3x3 tokens are one clip, a place a window: at g = 0.5 nine of 18 tokens are local, none of 16."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 9, 8, generator=generator)
    shallow, deep = torch.rand(2, 4, 9, generator=generator)

    def kinds(retention, **changes):
        video = VideoTokens(features, shallow, deep, (3, 3), None)
        result = aot(video, AOTConfig(retention=retention, **changes))
        return result, (result.kind == TokenKind.LOCAL).sum()

    assert kinds(0.5)[1] == 9 and kinds(0.47)[1] == 0  # 18 and 16 tokens: ⌊9/9⌋ and ⌊8/9⌋ a window
    assert kinds(0.5, global_ratio=0.0)[1] == 18 and kinds(0.5, global_ratio=1.0)[1] == 0
    result, _ = kinds(0.5)
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

    assert chosen(odd) == [1, 3]
    assert chosen(odd, attention_power=0.0) == chosen(even) != [1, 3]


def test_clips():
    assert uniform_clips(32) == [4] * 8 and uniform_clips(64) == [8] * 8
    assert uniform_clips(13) == [2] * 6 + [1] and uniform_clips(1) == [1]
    assert uniform_clips(7, 3) == [3, 3, 1]
    lengths = [default_clip_length(tokens) for tokens in (1, 200, 201, 266, 267, 400, 401, 900)]
    assert lengths == [4, 4, 3, 3, 2, 2, 1, 1]
    video = VideoTokens(torch.zeros(11, 196, 1), None, None, (14, 14), None)
    assert short_clips(video, AOTConfig(), 99) == [4, 4, 3]  # 800 tokens hold four frames
    assert short_clips(video, AOTConfig(clip_length=6), 99) == [6, 5]
    assert short_clips(replace(video, clips=[1, 9, 1]), AOTConfig(), 99) == [1, 4, 4, 1, 1]
    assert short_clips(replace(video, clips=[1, 9, 1]), AOTConfig(clip_length=6), 99) == [1, 9, 1]
    assert short_clips(video, AOTConfig(), 2) == [4, 7]
    assert short_clips(replace(video, clips=[1, 2, 3, 4, 1]), AOTConfig(), 2) == [3, 8]
    a, b = torch.eye(2)
    still = torch.stack([a, a, b, b, b, a])
    assert dynamic_clips(still, threshold=0.9, cuts=1) == [2, 3, 1]
    assert len(dynamic_clips(still, threshold=-1.0, cuts=5)) == 5
    assert dynamic_clips(a[None], threshold=0.9, cuts=8) == [1]


def test_dynamic_clips_through_compress(make_video):
    features, shallow, deep = make_video(8, (4, 4), 8)
    features = features.clone()
    features[5:] = -features[5:]
    config = AOTConfig(clips="dynamic", clip_threshold=0.0, clip_cuts=1, retention=0.2)
    video = compress(features, shallow, deep, config)
    assert video.clips == [4, 1, 3]  # five frames are more than a clip holds
    assert compress(features, shallow, deep, config, clips=[2, 6]).clips == [2, 4, 2]


def test_small_helpers():
    assert rank_descending(torch.tensor([0.2, 0.9, 0.2, 0.5])).tolist() == [2, 0, 3, 1]
    assert true_indices(torch.tensor([False, True, False, True]), 2).tolist() == [1, 3]
    distances = grid_distances((3, 2))
    assert float(distances[0, 5]) == pytest.approx(math.sqrt(2))
    assert float(distances[0, 2]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("newlines", "position", "expected"),
    [
        ("frame", "grid", "a|bcd|"),
        ("row", "grid", "a|b|cd|"),
        ("all", "grid", "a||b|cd|"),
        ("none", "grid", "abcd"),
        ("all", "frame", "a|bcd|"),
        ("frame", "one_token", "abcd|"),
        ("frame", "no_token", "abcd"),
    ],
)
def test_newline_layout(newlines, position, expected):
    """Kept: one token of frame 0 row 0; one of frame 1 row 0 and two of its row 1, on a 2x2 grid."""
    video = VideoTokens(
        torch.zeros(2, 4, 1), None, None, (2, 2), None, newline=torch.tensor([9.0]), newline_position=position
    )
    selection = Selection.from_indices(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 5, 6, 7]), (2, 2))
    result = insert_newlines(selection, video, AOTConfig(newlines=newlines))
    assert "".join("abcd"[int(t)] if t < 9 else "|" for t in result.tokens[:, 0]) == expected
    newline = result.kind == TokenKind.NEWLINE
    assert bool((result.position[newline, 1] == 2).all()) and bool((result.mass[newline] == 0).all())


def test_released_newlines_in_frame_mode_close_each_frame(make_video):
    config = AOTConfig.preset("released", num_anchors=18, clip_length=2, keep_ratio=0.5)
    newline = torch.full((8,), 9.0)
    video = compress(*make_video(4, (6, 6), 8), config, pool=None, newline=newline, newline_position="frame")
    newlines = video.kind == TokenKind.NEWLINE
    assert int(newlines.sum()) == 4 and bool(newlines[-1])
    assert bool((video.tokens[newlines] == 9).all())
