"""Hostile tensors for every method: one AOTError, or a right result."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from aot import AOTConfig, AOTError, VideoStream, compress, method_names
from aot.clips import clip_layout
from aot.ops import count_sketch
from aot.registry import get_method

METHODS = [name for name in method_names() if not get_method(name).in_llm]
CONFIGS = {name: AOTConfig(method=name, retention=0.2) for name in METHODS}
CONFIGS |= {name: AOTConfig.preset(name, num_anchors=18, clip_length=3) for name in ("paper", "released")}
CONFIGS |= {
    "dynamic": AOTConfig(retention=0.2, clips="dynamic"),
    "attention": AOTConfig(retention=0.2, attention_power=0.5),
    "sinkhorn": AOTConfig(retention=0.2, uniform_marginal=0.5),
}


def inputs(make_video, frames=6, grid=(6, 6), width=8):
    features, shallow, deep = make_video(frames, grid, width)
    return {"features": features, "shallow": shallow, "deep": deep, "attention_last": shallow + 0.1, "keys": features}


def run(tensors, config, **arguments):
    extras = {name: tensors[name] for name in ("attention_last", "keys")}
    return compress(tensors["features"], tensors["shallow"], tensors["deep"], config, extras=extras, **arguments)


def reads(config) -> set[str]:
    return {"features", *config.requires}


def check(video, config, tensors, tokens=9):
    assert video.tokens.dtype == tensors["features"].dtype and not video.mass.requires_grad
    assert video.tokens.requires_grad == tensors["features"].requires_grad
    assert bool(video.tokens.isfinite().all()) and bool(video.mass.isfinite().all()) and bool((video.mass >= 0).all())
    if config.retention is not None:
        assert video.num_visual == config.budget(video.frames, tokens)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_values_that_cannot_be_used_are_refused(make_video, name, many, value):
    tensors, config = inputs(make_video), CONFIGS[name]
    for damaged in reads(config):
        spoilt = tensors[damaged].clone()
        spoilt[(slice(None), slice(3, 20)) if many else (2, 17)] = value
        with pytest.raises(AOTError, match=f"^{damaged} cannot be used at") as error:
            run(tensors | {damaged: spoilt}, config)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_negative_importance_is_refused(make_video, name):
    tensors, config = inputs(make_video), CONFIGS[name]
    for damaged in reads(config) - {"features", "keys"}:
        spoilt = tensors[damaged].clone()
        spoilt[4, 30] = -1e-3
        with pytest.raises(
            AOTError, match=f"{damaged} cannot be used at 1 of 216 places, first in frame 4 at token 30"
        ):
            run(tensors | {damaged: spoilt}, config)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1e30])
@pytest.mark.parametrize("name", CONFIGS)
def test_on_a_device_a_bad_place_counts_as_zero_and_is_remembered(make_video, monkeypatch, name, value):
    """The path of a GPU, where no value is read: the count is exact, and no other token changes."""
    monkeypatch.setattr("aot.validation.HOST_DEVICES", ())
    tensors, config = inputs(make_video), CONFIGS[name]
    clean = run(tensors, config, pool=None)
    clean.check()
    for damaged in reads(config):
        spoilt, zero = tensors[damaged].clone(), tensors[damaged].clone()
        spoilt[2, 17], zero[2, 17] = value, 0
        video = run(tensors | {damaged: spoilt}, config, pool=None)
        check(video, config, tensors, tokens=36)
        expected = run(tensors | {damaged: zero}, config, pool=None)
        assert torch.equal(video.tokens, expected.tokens) and torch.equal(video.frame, expected.frame)
        for ask in (video.check, video.summary):
            with pytest.raises(AOTError, match=f"{damaged} cannot be used at 1 of 216 places, first in frame 2"):
                ask()
        expected.check()


def make_odd(tensors, kind):
    features = tensors["features"]
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    changes = {
        "not contiguous": lambda: {key: x.transpose(0, 1).contiguous().transpose(0, 1) for key, x in tensors.items()},
        "expanded": lambda: {key: x[:1].expand_as(x) for key, x in tensors.items()},
        "expanded along D": lambda: {"features": features[..., :1].expand_as(features)},
        "requires grad": lambda: {key: x.clone().requires_grad_() for key, x in tensors.items()},
        "all equal": lambda: {key: torch.ones_like(x) for key, x in tensors.items()},
        "all zero": lambda: {key: torch.zeros_like(x) for key, x in tensors.items()},
        "largest of float16": lambda: {"features": (features.sign() * 65504).half()},
        "large": lambda: {"features": features * 1e14},
        "denormal": lambda: {"features": features * 1e-40},
        "small": lambda: {"features": features * 1e-22},
        "denormal float16": lambda: {"features": (features * 1e-7).half()},
        "large importance": lambda: {name: tensors[name] * 1e15 for name in ("shallow", "deep", "attention_last")},
        "small importance": lambda: {name: tensors[name] * 1e-42 for name in ("shallow", "deep", "attention_last")},
        "integers": lambda: {name: (tensors[name] * 9).int() for name in ("shallow", "deep", "attention_last")},
        "booleans": lambda: {name: tensors[name] > 0.5 for name in ("shallow", "deep", "attention_last")},
        "doubles": lambda: {name: tensors[name].double() for name in ("shallow", "deep", "attention_last", "keys")},
    }
    if kind in dtypes:
        return {key: x.to(dtypes[kind]) for key, x in tensors.items()}
    return tensors | changes[kind]()


ODD = [
    "float16",
    "bfloat16",
    "not contiguous",
    "expanded",
    "expanded along D",
    "requires grad",
    "all equal",
    "all zero",
]
ODD += ["largest of float16", "large", "denormal", "small", "denormal float16", "large importance", "small importance"]
ODD += ["integers", "booleans", "doubles"]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", CONFIGS)
def test_odd_tensors_give_a_right_and_repeatable_result(make_video, name, kind):
    config = CONFIGS[name]
    tensors = make_odd(inputs(make_video), kind)
    copies = {key: x.detach().clone() for key, x in tensors.items()}
    video = run(tensors, config)
    check(video, config, tensors)
    again = run(copies, config)
    assert torch.equal(again.tokens, video.tokens) and torch.equal(again.frame, video.frame)
    assert all(torch.equal(copies[key], x) for key, x in tensors.items()), "an input was written to"


@pytest.mark.parametrize(
    ("frames", "grid", "width"), [(1, (6, 6), 8), (6, (6, 6), 1), (1, (1, 1), 1), (5, (1, 12), 3), (3, (40, 1), 2)]
)
@pytest.mark.parametrize("retention", [1e-9, 0.3, 1.0])
@pytest.mark.parametrize("name", METHODS)
def test_odd_shapes(make_video, name, frames, grid, width, retention):
    tensors, config = inputs(make_video, frames, grid, width), AOTConfig(method=name, retention=retention)
    video = run(tensors, config, grid=grid, pool=None)
    check(video, config, tensors, tokens=grid[0] * grid[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(3, 16, 4, dtype=torch.float8_e5m2)}, "float8.*use a dense"),
        ({"features": torch.zeros(3, 16, 4, dtype=torch.complex64)}, "complex64"),
        ({"features": torch.zeros(3, 16, 4, dtype=torch.bool)}, "bool"),
        ({"features": torch.zeros(3, 16, 4).to_sparse()}, "sparse"),
        ({"features": torch.zeros(3, 0, 4)}, "empty"),
        ({"features": torch.zeros(3, 16, 0)}, "empty"),
        ({"features": np.zeros((3, 16, 4))}, "ndarray"),
        ({"shallow": np.zeros((3, 16))}, "shallow is a ndarray"),
        ({"shallow": torch.zeros(3, 16, device="meta")}, "on meta"),
        ({"deep": torch.zeros(3, 16, dtype=torch.complex64)}, "real numbers"),
        ({"deep": torch.zeros(3, 16, 1)}, "deep is"),
        ({"extras": {"attention_last": torch.zeros(3, 16, 2)}, "method": "fastvid"}, "must be .T, N., T = 3"),
        ({"extras": {"attention_last": torch.zeros(2, 16)}, "method": "flashvid"}, "must be"),
        ({"extras": {"attention_last": [1.0]}, "method": "holitom"}, "is a list"),
        ({"extras": {"attention_last": torch.ones(3, 16), "keys": torch.ones(3, 16)}, "method": "visionzip"}, "keys"),
        ({"extras": [1]}, "extras is a list"),
        ({"extras": {}, "method": "ott_vid"}, "needs attention_last"),
        ({"newline": torch.full((4,), torch.nan)}, "newline holds"),
        ({"newline": torch.full((4,), 1e6), "features": torch.zeros(3, 16, 4).half()}, "newline holds"),
        ({"newline": [0.0] * 4}, "newline is list"),
        ({"before": torch.zeros(1, 16, 4).half()}, "before is"),
        ({"before": torch.full((1, 16, 4), torch.inf)}, "before cannot be used"),
        ({"grid": (4.0, 4)}, "whole number"),
        ({"grid": "44"}, "grid is"),
        ({"grid": (2, 2, 4)}, "grid is"),
        ({"clips": [1.5, 1.5]}, "whole numbers"),
        ({"clips": 3}, "whole numbers"),
        ({"clips": ["a", "b"]}, "whole numbers"),
    ],
)
def test_inputs_that_do_not_fit_give_one_clear_sentence(changes, message):
    changes = dict(changes)
    config = AOTConfig(method=changes.pop("method", "aot"))
    arguments = {"features": torch.zeros(3, 16, 4), "shallow": torch.zeros(3, 16), "deep": torch.zeros(3, 16)} | changes
    with pytest.raises(AOTError, match=message) as error:
        compress(**arguments, config=config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("retention", [Fraction(1, 5), np.float32(0.2), np.float64(0.2)])
def test_a_retention_of_any_number_type(make_video, retention):
    tensors = inputs(make_video)
    assert run(tensors, AOTConfig(retention=retention)).num_visual == 10


@pytest.mark.parametrize("retention", ["0.1", True, np.nan, np.inf, 0, -1, 1 + 1e-9, [0.1], np.array([0.1]), 1j])
def test_a_retention_that_is_none(retention):
    with pytest.raises(AOTError, match="retention is"):
        AOTConfig(retention=retention)


def test_what_is_pushed_must_fit(make_video):
    features, shallow, deep = make_video(3, (6, 6), 8)
    stream = VideoStream(AOTConfig())
    stream.push(features, shallow, deep)
    for wrong in (features.half(), features[:, :25], features[..., :4]):
        with pytest.raises(AOTError, match="push the same again"):
            stream.push(wrong, shallow, deep)
    for none in (None, 3, torch.tensor(1.0)):
        with pytest.raises(AOTError, match=r"features must be a \(T, N, D\) tensor"):
            VideoStream(AOTConfig()).push(none)
    with pytest.raises(AOTError, match="features cannot be used"):
        stream.push(features * torch.nan, shallow, deep)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_callers_autocast_changes_nothing(make_video, name, dtype):
    """AMP training and much inference run in it; products of such features are beyond float16."""
    tensors = inputs(make_video)
    tensors |= {"features": 100 * tensors["features"], "keys": 100 * tensors["keys"]}
    plain = run(tensors, CONFIGS[name])
    with torch.autocast("cpu", dtype=dtype):
        cast = run(tensors, CONFIGS[name])
    for field in ("tokens", "frame", "position", "mass"):
        assert torch.equal(getattr(cast, field), getattr(plain, field)), field


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_torchs_default_dtype_changes_nothing(make_video, name, dtype):
    """Some scripts set it before they load a model."""
    tensors = inputs(make_video)
    plain = run(tensors, CONFIGS[name])
    try:
        torch.set_default_dtype(dtype)
        other = run(tensors, CONFIGS[name])
    finally:
        torch.set_default_dtype(torch.float32)
    for field in ("tokens", "frame", "position", "mass"):
        assert torch.equal(getattr(other, field), getattr(plain, field)), field
        assert getattr(other, field).dtype == getattr(plain, field).dtype, field


ENDS = {
    name: AOTConfig(method=method, **settings)
    for name, method, settings in (
        ("far apart", "aot", {"spatial_weight": 1e6, "temporal_weight": 1e6}),
        ("sharp", "aot", {"epsilon": 1e-6}),
        ("sharp sinkhorn", "aot", {"epsilon": 1e-6, "uniform_marginal": 1}),
        ("blurred", "aot", {"epsilon": 1e6}),
        ("strong merge", "aot", {"merge_strength": 1e6, "merge_cap": 1}),
        ("few groups", "unicomp", {"retention": 1e-309}),
        ("one window", "dycoke", {"options": {"window": 2**31 - 1}}),
        ("cold", "vidcom2", {"options": {"temperature": 1e-6}}),
        ("cold cast", "vcast", {"options": {"temperature": 1e-6}}),
        ("seed", "random", {"options": {"seed": -(2**63)}}),
    )
}
PAPER = {"num_anchors": 18, "clip_length": 3, "source_mass": "unit"}
ENDS |= {
    "sharp paper": AOTConfig.preset("paper", **PAPER, epsilon=1e-6),
    "sudden": AOTConfig.preset("paper", **PAPER, temporal_sigma=1e-3),
    "never": AOTConfig.preset("paper", **PAPER, temporal_sigma=1e6, inter_scale=1e6),
}


@pytest.mark.parametrize("name", ENDS)
def test_settings_at_their_ends_give_a_result(make_video, name):
    tensors = inputs(make_video)
    video = run(tensors, ENDS[name])
    check(video, ENDS[name], tensors)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3])
def test_a_small_epsilon_of_the_paper_still_transports(make_video, epsilon):
    """exp(-cost / epsilon) is 0 in float32; what a frame does not keep as an anchor still goes to its anchors."""
    config = AOTConfig.preset("paper", num_anchors=18, source_mass="unit", inter_frame=False, epsilon=epsilon)
    plan = run(inputs(make_video), config, trace=True).trace["intra_plan"]
    torch.testing.assert_close(plan.sum(dim=(1, 2)), torch.full((6,), 36.0 - plan.shape[2]), rtol=1e-3, atol=0)


def test_what_is_remembered_is_real():
    """Fake tensors, by which programs are traced and memory is planned, leave nothing behind."""
    with FakeTensorMode():
        assert isinstance(count_sketch(torch.ones(1, 13), 6), FakeTensor)
        assert isinstance(clip_layout((2,), (3,), (1, 7), 1.0, torch.device("cpu"), frames=2).valid, FakeTensor)
    assert not isinstance(count_sketch(torch.ones(1, 13), 6), FakeTensor)
    assert not isinstance(clip_layout((2,), (3,), (1, 7), 1.0, torch.device("cpu"), frames=2).valid, FakeTensor)


def test_all_tokens_are_a_copy(make_video):
    features, _, _ = make_video(2, (3, 3), 8)
    video = compress(features, config=AOTConfig(retention=1), pool=None)
    features.zero_()
    assert bool((video.tokens != 0).all())


@pytest.mark.parametrize("name", METHODS)
def test_masses_are_float32_and_clips_are_those_in_use(make_video, name):
    tensors = {k: v.double() for k, v in inputs(make_video).items()}
    video = run(tensors, CONFIGS[name], clips=[1, 5])
    assert video.mass.dtype == torch.float32 and video.tokens.dtype == torch.float64
    plain = run(tensors, CONFIGS[name])
    if video.clips is None:
        assert torch.equal(video.tokens, plain.tokens)
    else:
        assert plain.clips is not None
