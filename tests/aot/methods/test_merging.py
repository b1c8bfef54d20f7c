"""What VisionZip, PruneVid, FastVID, HoliTom, SToP, UniComp and pool share: counts, order, masses, robustness."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot import AOTConfig, AOTError, TokenKind, compress, pool_tokens, pooled_grid

METHODS = ["visionzip", "prunevid", "fastvid", "holitom", "stop", "unicomp", "pool"]
NEEDS = {"visionzip": ("attention_last", "keys"), "prunevid": (), "fastvid": ("attention_last",)}
NEEDS |= {"holitom": ("attention_last",), "stop": ("attention_last",), "unicomp": ("keys",), "pool": ()}


def extras(frames, tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "attention_last": torch.rand(frames, tokens, generator=generator),
        "keys": torch.randn(frames, tokens, 5, generator=generator),
    }


def run(features, method, retention, **arguments):
    settings_ = arguments.pop("options", {})
    more = arguments.pop("extras", None) or extras(*features.shape[:2])
    more = {name: more[name] for name in NEEDS[method]}
    config = AOTConfig(method=method, retention=retention, options=settings_)
    return compress(features, None, None, config, extras=more, **arguments)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    frames=st.integers(1, 20),
    height=st.integers(2, 7),
    width=st.integers(2, 7),
    retention=st.floats(0.02, 1.0),
    pool=st.sampled_from(["bilinear", "average", "max", None]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    drift=st.sampled_from([0.0, 0.1, 0.5, 2.0]),
    newline=st.booleans(),
    seed=st.integers(0, 5),
)
def test_the_count_is_exact_and_tokens_stand_in_order(
    method, frames, height, width, retention, pool, dtype, drift, newline, seed
):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, height * width, 6, generator=generator)
    features = (features + drift * torch.randn(frames, height * width, 6, generator=generator)).to(dtype)
    grid = (height, width)
    video = run(features, method, retention, pool=pool, grid=grid, newline=torch.zeros(6) if newline else None)
    rows, columns = pooled_grid(grid, pool)
    visual = video.kind != TokenKind.NEWLINE
    assert video.num_visual == video.config.budget(frames, rows * columns)
    flat = (video.frame * rows * columns + video.position[:, 0] * columns + video.position[:, 1])[visual]
    assert bool((flat.diff() > 0).all()) and int(flat.max()) < frames * rows * columns
    assert video.tokens.dtype == dtype and video.tokens.isfinite().all()
    mass = video.mass[visual]
    assert float(mass.min()) >= 1 and float(mass.sum()) <= video.tokens_before * (1 + 1e-5)
    assert float(video.mass[~visual].sum()) == 0


@pytest.mark.parametrize("pool", ["bilinear", "max", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_full_retention_returns_the_models_own_tokens(make_video, method, dtype, pool):
    features, _, _ = make_video(5, (6, 5), 8, dtype=dtype)
    video = run(features, method, 1.0, pool=pool, grid=(6, 5))
    assert torch.equal(video.tokens, pool_tokens(features, (6, 5), pool).flatten(0, 1))
    assert torch.equal(video.mass, torch.ones(len(video.tokens)))


DEGENERATE = {
    "constant frames": lambda x: torch.ones_like(x),
    "identical frames": lambda x: x[:1].expand_as(x),
    "a frame of zeros": lambda x: x * (torch.arange(len(x)) != 2).view(-1, 1, 1),
    "all zeros": lambda x: torch.zeros_like(x),
    "tiny values": lambda x: x * 1e-7,
    "large values": lambda x: x * 1e4,
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("method", METHODS)
def test_degenerate_input_stays_finite(make_video, method, kind):
    features, _, _ = make_video(6, (6, 6), 8)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for retention in (0.05, 0.3, 0.8):
            more = {"attention_last": torch.zeros(6, 36), "keys": torch.zeros(6, 36, 4)}
            video = run(DEGENERATE[kind](features).to(dtype), method, retention, extras=more)
            assert video.num_visual == int(retention * 54 + 1e-9)
            assert video.tokens.isfinite().all() and video.mass.isfinite().all()


@pytest.mark.parametrize("retention", [0.15, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("method", ["visionzip", "prunevid", "fastvid", "pool"])
def test_methods_that_merge_everything_account_for_every_token(make_video, method, retention):
    features, _, _ = make_video(8, (9, 8), 12)
    video = run(features, method, retention, pool=None, grid=(9, 8))
    assert float(video.mass.sum()) == pytest.approx(8 * 72)


@pytest.mark.parametrize("method", ["visionzip", "prunevid", "pool"])
def test_plain_means_keep_the_sum_of_all_tokens(make_video, method):
    features, _, _ = make_video(8, (9, 8), 12)
    options = {"contextual": "mean"} if method == "visionzip" else {}
    video = run(features, method, 0.2, pool=None, grid=(9, 8), options=options)
    together = (video.tokens * video.mass.unsqueeze(1)).sum(0)
    torch.testing.assert_close(together, features.sum((0, 1)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("method", ["prunevid", "fastvid", "holitom", "stop", "unicomp"])
def test_places_may_be_renamed(make_video, method):
    """The same places in another order give the same tokens: nothing but contextual targets depends on order."""
    features, _, _ = make_video(8, (5, 5), 16)
    more = extras(8, 25)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(3))
    moved = {name: value[:, order] for name, value in more.items()}
    first = run(features, method, 0.3, pool=None, grid=(5, 5), extras=more)
    second = run(features[:, order], method, 0.3, pool=None, grid=(5, 5), extras=moved)
    place = order[second.position[:, 0] * 5 + second.position[:, 1]]
    back = (second.frame * 25 + place).argsort()
    assert torch.equal(second.frame[back], first.frame)
    assert torch.equal(place[back], first.position[:, 0] * 5 + first.position[:, 1])
    torch.testing.assert_close(second.tokens[back], first.tokens)
    torch.testing.assert_close(second.mass[back], first.mass)


@pytest.mark.parametrize("method", ["prunevid", "fastvid", "holitom", "stop"])
def test_clips_of_the_caller_are_the_segments(make_video, method):
    features, _, _ = make_video(6, (4, 4), 8)
    assert run(features, method, 0.4, clips=[4, 2]).clips == [4, 2]


@pytest.mark.parametrize("method", ["visionzip", "fastvid", "holitom"])
def test_missing_or_misshapen_tower_outputs_are_named(make_video, method):
    features, _, _ = make_video(3, (4, 4), 8)
    with pytest.raises(AOTError, match="attention_last"):
        compress(features, None, None, AOTConfig(method=method))
    with pytest.raises(AOTError, match=r"attention_last is \(3, 4\)"):
        run(features, method, 0.1, extras={"attention_last": torch.rand(3, 4), "keys": torch.rand(3, 16, 2)})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("visionzip", {"dominant": 1.5}, "option dominant"),
        ("visionzip", {"contextual": "max"}, "use one of: sum, mean"),
        ("prunevid", {"neighbours": 0}, "option neighbours"),
        ("prunevid", {"threshold": "high"}, "option threshold"),
        ("fastvid", {"stride": 0}, "option stride"),
        ("fastvid", {"salient": -0.1}, "option salient"),
        ("holitom", {"center_weight": 2}, "option center_weight"),
        ("holitom", {"tau": 0.8}, "has no option tau"),
    ],
)
def test_options_are_checked(method, options, message):
    with pytest.raises(AOTError, match=message):
        AOTConfig(method=method, options=options)
