"""Properties of the default preset and of the floors: exact budget, order, masses, robustness."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot import AOTConfig, AOTError, TokenKind, compress, pool_tokens, pooled_grid
from aot.methods.common import even_indices

POOLS = ["bilinear", "average", "max", None]
NEWLINES = ["grid", "frame", "one_token", "no_token"]


def check_layout(video, config, *, pool, grid, newline_position=None):
    """Exact counts; each token once, in frame and raster order."""
    height, width = pooled_grid(grid, pool)
    assert video.grid == (height, width)
    visual = video.kind != TokenKind.NEWLINE
    expected = config.budget(video.frames, height * width)
    assert int(visual.sum()) == video.num_visual == expected
    if newline_position is not None and config.newlines != "row":
        counts = config.token_count(video.frames, height * width, newline_position=newline_position, rows=height)
        assert counts == (expected, video.num_newlines)
    frame, position = video.frame[visual], video.position[visual]
    flat = frame * height * width + position[:, 0] * width + position[:, 1]
    assert bool((flat[1:] > flat[:-1]).all())
    assert int(flat.min()) >= 0 and int(flat.max()) < video.tokens_before
    assert int(position[:, 1].max()) < width
    assert video.frame.diff().min() >= 0 if len(video.frame) > 1 else True
    for part in (video.frame, video.kind, video.mass, video.position):
        assert len(part) == len(video.tokens)
    assert video.tokens.isfinite().all()
    return flat


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 128),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
    retention=st.floats(0.02, 1.0),
    pool=st.sampled_from(POOLS),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    position=st.sampled_from(NEWLINES),
    method=st.sampled_from(["aot", "aot", "random", "uniform", "frames", "first"]),
    changes=st.sampled_from(
        [
            {},
            {"global_ratio": 0.5, "spatial_weight": 0.5},
            {"uniform_marginal": 0.5, "iterations": 5},
            {"clips": "dynamic", "merge_cap": 1.0},
            {"global_ratio": 0.0, "newlines": "all"},
            {"clip_length": 3, "newlines": "row"},
            {"change_power": 0.0, "attention_power": 0.0, "newlines": "none"},
        ]
    ),
    seed=st.integers(0, 3),
)
def test_exact_budget(frames, height, width, retention, pool, dtype, position, method, changes, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, height * width, 6, generator=generator).to(dtype)
    maps = torch.rand(2, frames, height * width, generator=generator)
    if method != "aot":
        changes = {}
    config = AOTConfig(retention=retention, method=method, **changes)
    video = compress(
        features,
        *maps,
        config,
        pool=pool,
        grid=(height, width),
        newline=torch.full((6,), 7.0),
        newline_position=position,
    )
    check_layout(video, config, pool=pool, grid=(height, width), newline_position=position)
    assert video.tokens.dtype == dtype
    newlines = video.kind == TokenKind.NEWLINE
    assert bool((video.tokens[newlines] == 7).all()) and float(video.mass[newlines].sum()) == 0
    if method == "aot":
        assert float(video.mass.sum()) == pytest.approx(video.tokens_before, rel=1e-4)
        assert float(video.mass[~newlines].min()) >= 1


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["aot", "random", "uniform", "frames", "first"])
def test_full_retention_returns_the_models_own_tokens(make_video, pool, dtype, method):
    features, shallow, deep = make_video(5, (7, 6), 8, dtype=dtype)
    video = compress(features, shallow, deep, AOTConfig(retention=1.0, method=method), pool=pool, grid=(7, 6))
    expected = upstream_pool(features, (7, 6), pool).flatten(0, 1)
    assert torch.equal(video.tokens, expected)
    assert torch.equal(video.mass, torch.ones(len(expected)))


def upstream_pool(features, grid, pool):
    """The host model's pooling, on a contiguous copy."""
    maps = features.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()
    if pool == "bilinear":
        size = (-(-grid[0] // 2), -(-grid[1] // 2))
        maps = torch.nn.functional.interpolate(maps, size=size, mode="bilinear")
    elif pool is not None:
        operator = {"average": torch.nn.functional.avg_pool2d, "max": torch.nn.functional.max_pool2d}[pool]
        maps = operator(maps, 2)
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_equals_the_host_models(pool):
    features = torch.randn(3, 27 * 27, 40)
    assert torch.equal(pool_tokens(features, (27, 27), pool), upstream_pool(features, (27, 27), pool))


DEGENERATE = {
    "constant frames": lambda x: torch.ones_like(x),
    "identical frames": lambda x: x[:1].expand_as(x),
    "a frame of zeros": lambda x: x * (torch.arange(len(x)) != 2).view(-1, 1, 1),
    "all zeros": lambda x: torch.zeros_like(x),
    "tiny values": lambda x: x * 1e-7,
    "large values": lambda x: x * 1e4,
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epsilon": 0.1, "uniform_marginal": 1.0, "iterations": 20},
        {"global_ratio": 0.5},
        {"epsilon": 0.005, "uniform_marginal": 1.0, "iterations": 20},
    ],
)
def test_degenerate_input_stays_finite(make_video, kind, dtype, changes):
    features, shallow, deep = make_video(6, (6, 6), 8)
    features = DEGENERATE[kind](features).to(dtype)
    config = AOTConfig(retention=0.2, **changes)
    for attention in (shallow, torch.zeros_like(shallow)):
        video = compress(features, attention, attention, config)
        check_layout(video, config, pool="bilinear", grid=(6, 6))
        assert video.mass.isfinite().all()
        assert float(video.mass.sum()) == pytest.approx(video.tokens_before, rel=1e-3)


@pytest.mark.parametrize("preset", ["released", "paper"])
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_degenerate_input_stays_finite_in_the_cascade(make_video, preset, kind, dtype):
    features, shallow, deep = make_video(6, (6, 6), 8)
    features = DEGENERATE[kind](features).to(dtype)
    video = compress(features, shallow, deep, AOTConfig.preset(preset, num_anchors=18, clip_length=3))
    assert video.tokens.isfinite().all() and video.tokens.dtype == dtype
    assert video.num_visual > 0


def test_a_brief_change_is_kept(make_video):
    """One pooled place that changes in two frames of a still video; at 5 % one of the two tokens is kept at least."""
    base = torch.randn(1, 36, 16, generator=torch.Generator().manual_seed(1))
    features = base.repeat(16, 1, 1)
    features[9, 20] = 3 * torch.randn(16, generator=torch.Generator().manual_seed(2))
    features[10, 27] = features[9, 20]
    attention = torch.ones(16, 36)
    video = compress(features, attention, attention, AOTConfig(retention=0.05), pool=None, trace=True)
    kept = set(zip(video.frame.tolist(), (video.position[:, 0] * 6 + video.position[:, 1]).tolist(), strict=True))
    assert {(9, 20), (10, 27)} & kept
    assert int(video.trace["frame_budget"].sum()) == 28


def test_a_still_video_is_shown_once():
    """Copies of one frame explain each other where time costs nothing: nearly all of 36 tokens show another place."""
    base = torch.randn(1, 36, 16, generator=torch.Generator().manual_seed(1))
    attention = torch.ones(16, 36)
    config = AOTConfig(retention=0.0625, clip_length=16, temporal_weight=0)  # 36 of 576
    video = compress(base.repeat(16, 1, 1), attention, attention, config, pool=None)
    assert len({(r, c) for r, c in video.position.tolist()}) >= 35


def scene(noise):
    """16 frames of 6x6 tokens: a textured background, a still object, one that moves, and a needle in two
    frames. Returns features and the set of (frame, place) with an object."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    places = 0.5 * draw(36, 64)
    features = (1.5 * draw(64) + places + 0.5 * draw(36, 64)).repeat(16, 1, 1) + noise * draw(16, 36, 64)
    still, mover, needle = 2.5 * draw(3, 64)
    objects = {}
    for frame in range(16):
        objects[frame, 25] = still
        objects[frame, 12 + min(5, frame // 2)] = mover
    objects[9, 5] = objects[10, 5] = needle
    for (frame, place), token in objects.items():
        features[frame, place] = token + places[place]
    return features, set(objects)


@pytest.mark.parametrize(("noise", "looks"), [(0.1, 6), (0.4, 5)])
def test_a_tenth_of_the_tokens_holds_every_object(noise, looks):
    """The still object, the moving one at each of six places and the needle look different: eight looks."""
    features, objects = scene(noise)
    attention = torch.ones(16, 36)

    def found(retention=0.1, **changes):
        video = compress(features, attention, attention, AOTConfig(retention=retention, **changes), pool=None)
        places = (video.position[:, 0] * 6 + video.position[:, 1]).tolist()
        return {place for _, place in objects & set(zip(video.frame.tolist(), places, strict=True))}

    assert found() <= {25, 5, *range(12, 18)} and len(found()) >= looks
    assert {25, 5} <= found(0.05) and found(0.05) & {*range(12, 18)}
    assert len(found(method="random")) < 4


def test_merging_off_keeps_tokens_as_they_are(make_video):
    features, shallow, deep = make_video(8, (6, 6), 8)
    video = compress(features, shallow, deep, AOTConfig(merge_cap=0.0, retention=0.3), pool=None)
    index = video.position[:, 0] * 6 + video.position[:, 1]
    assert torch.equal(video.tokens, features[video.frame, index])
    merged = compress(features, shallow, deep, AOTConfig(retention=0.3), pool=None)
    assert torch.equal(merged.frame, video.frame)
    change = (merged.tokens - video.tokens).norm(dim=1)
    assert torch.equal(change > 0, merged.mass > 1)
    assert (change > 0).float().mean() > 0.9


def test_summary_is_json(make_video):
    for preset in ("default", "paper", "released"):
        changes = {} if preset == "default" else {"num_anchors": 18}
        config = AOTConfig.preset(preset, **changes)
        video = compress(*make_video(4, (6, 6), 8), config, newline=torch.zeros(8))
        summary = json.loads(json.dumps(video.summary()))
        assert summary["tokens_before"] == 36
        assert summary["tokens_after"] + summary["newlines"] == len(video.tokens)
        assert summary["retention"] == video.retention == summary["tokens_after"] / 36
        assert AOTConfig.from_dict(summary["config"]) == config
        assert video.trace is None


def test_random_is_seeded_and_exact(make_video):
    inputs = make_video(6, (6, 6), 4)

    def draw(seed):
        config = AOTConfig(method="random", retention=0.3, options={"seed": seed})
        video = compress(*inputs, config, pool=None)
        return check_layout(video, config, pool=None, grid=(6, 6))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_attention_is_asked_for_where_it_is_read(make_video):
    """The default reads the features alone; with a power of attention, and in the paper's variant, that is said."""
    features, shallow, deep = make_video(3, (4, 4), 4)
    for method in ("aot", "random", "uniform", "frames", "first"):
        assert AOTConfig(method=method).requires == ()
        compress(features, config=AOTConfig(method=method))
    assert torch.equal(compress(features).tokens, compress(features, shallow, deep, AOTConfig()).tokens)
    for config in (AOTConfig(attention_power=0.5), AOTConfig.preset("paper", num_anchors=12)):
        assert config.requires == ("shallow", "deep")
        with pytest.raises(AOTError, match="attention of the shallow layer"):
            compress(features, config=config)
        compress(features, shallow, deep, config)


def test_uniform_is_even_and_frames_are_whole():
    assert even_indices(3, 9).tolist() == [1, 4, 7]
    features = torch.randn(4, 16, 2)
    video = compress(features, None, None, AOTConfig(method="frames", retention=0.5), pool=None)
    assert torch.equal(video.tokens, features[[0, 2]].flatten(0, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(3, 16)}, r"\(T, N, D\)"),
        ({"features": torch.zeros(0, 16, 4)}, "empty"),
        ({"features": torch.zeros(3, 0, 4)}, "empty"),
        ({"features": torch.zeros(3, 16, 0)}, "empty"),
        ({"features": torch.zeros(3, 16, 4, dtype=torch.int64)}, "floating"),
        ({"features": torch.zeros(3, 15, 4)}, "square"),
        ({"grid": (3, 5)}, "does not fit"),
        ({"shallow": torch.zeros(3, 9)}, "shallow"),
        ({"clips": [1, 1]}, "add up"),
        ({"clips": [3, 0]}, "add up"),
        ({"pool": "cubic"}, "pooling"),
        ({"newline": torch.zeros(3)}, "newline"),
        ({"newline_position": "row"}, "newline_position"),
        ({"config": {"retention": 2}}, "retention"),
        ({"config": 3}, "AOTConfig"),
        ({"config": AOTConfig.preset("released", num_anchors=30)}, "does not fit"),
        ({"config": AOTConfig.preset("paper", num_anchors=1)}, "No token survives"),
        ({"config": AOTConfig.preset("paper", num_anchors=2, global_ratio=0)}, "leaves no anchor"),
    ],
)
def test_bad_input_gives_one_clear_sentence(changes, message):
    arguments = {
        "features": torch.zeros(3, 16, 4),
        "shallow": torch.zeros(3, 16),
        "deep": torch.zeros(3, 16),
        "config": AOTConfig(),
    } | changes
    with pytest.raises(AOTError, match=message) as error:
        compress(**arguments)
    assert "\n" not in str(error.value)
