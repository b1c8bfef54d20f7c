"""Gradients of `compress`: to every kept and merged token through the plan, which is held fixed."""

import pytest
import torch

import aot.methods.aot
import aot.methods.aot_paper
import aot.ops.inter_frame
from aot import AOTConfig, AOTError, VideoStream, compress, join
from aot.methods.in_llm import IN_LLM
from aot.ops import aggregate, merge
from aot.registry import METHODS

SETTINGS = {name: AOTConfig(method=name, retention=0.3) for name in sorted(METHODS) if name not in IN_LLM}
SETTINGS |= {
    "sinkhorn": AOTConfig(retention=0.3, uniform_marginal=0.5),
    "paper": AOTConfig.preset("paper", num_anchors=20),
    "released": AOTConfig.preset("released", num_anchors=20),
}
# where the plans that weigh merged tokens are made; all other merging goes by whole numbers
PLANS = (
    (aot.methods.aot, "softmax_plan"),
    (aot.methods.aot, "sinkhorn"),
    (aot.methods.aot_paper, "sinkhorn"),
    (aot.ops.inter_frame, "_frame_plan"),
)


@pytest.fixture
def video():
    """Features (4, 36, 3) float64 and what else methods read, in steps along time that leave tokens to merge."""
    generator = torch.Generator().manual_seed(1)
    still = torch.randn(1, 36, 3, generator=generator, dtype=torch.float64)
    features = still + 0.4 * torch.randn(4, 36, 3, generator=generator, dtype=torch.float64)
    shallow, deep, last = torch.rand(3, 4, 36, generator=generator)
    return {"features": features, "shallow": shallow, "deep": deep, "last": last}


def run(video, config, features=None, **arguments):
    features = video["features"] if features is None else features
    extras = {"attention_last": video["last"], "keys": video["features"].detach()}
    return compress(features, video["shallow"], video["deep"], config, extras=extras, **arguments)


@pytest.fixture
def fixed_plans(monkeypatch):
    """Plans are made once; later calls of `compress` get those again, whatever the features have become."""
    made: list[torch.Tensor] = []
    asked = [0]

    def replayed(make):
        def plan(*arguments, **settings):
            asked[0] += 1
            if asked[0] > len(made):
                made.append(make(*arguments, **settings))
            return made[asked[0] - 1]

        return plan

    for module, name in PLANS:
        monkeypatch.setattr(module, name, replayed(getattr(module, name)))
    return asked


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_agree_with_differences(video, fixed_plans, name):
    newline = torch.ones(3, dtype=torch.float64)

    def tokens(features, newline):
        fixed_plans[0] = 0
        return run(video, SETTINGS[name], features, newline=newline).tokens

    wanted = (video["features"].clone().requires_grad_(), newline.clone().requires_grad_())
    assert torch.autograd.gradcheck(tokens, wanted, fast_mode=True)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_token_is_the_sum_of_what_its_gradient_names(video, name):
    """The tokens are linear in the features once everything is decided: gradient times features gives them back."""
    features = video["features"].clone().requires_grad_()
    plain = run(video, SETTINGS[name])
    reduced = run(video, SETTINGS[name], features)
    assert torch.equal(reduced.tokens, plain.tokens) and torch.equal(reduced.frame, plain.frame)
    assert not reduced.mass.requires_grad and not plain.tokens.requires_grad
    for row in range(len(plain.tokens)):
        gradient = torch.autograd.grad(reduced.tokens[row, 0], features, retain_graph=True)[0]
        assert not gradient[..., 1:].any()
        torch.testing.assert_close((gradient * video["features"]).sum(), plain.tokens[row, 0], rtol=1e-9, atol=1e-9)


def test_the_default_reaches_all_tokens_of_the_video(video):
    features = video["features"].clone().requires_grad_()
    run(video, SETTINGS["aot"], features, pool=None).tokens.sum().backward()
    assert bool((features.grad != 0).all())
    dropped = video["features"].clone().requires_grad_()
    run(video, SETTINGS["uniform"], dropped, pool=None).tokens.sum().backward()
    assert int((dropped.grad[..., 0] != 0).sum()) == SETTINGS["uniform"].budget(4, 36)


def test_no_gradient_flows_to_importance(video):
    maps = {name: video[name].clone().requires_grad_() for name in ("shallow", "deep", "last")}
    assert not run(video | maps, SETTINGS["aot"]).tokens.requires_grad
    features = video["features"].clone().requires_grad_()
    run(video | maps, SETTINGS["fastvid"], features).tokens.sum().backward()
    assert all(values.grad is None for values in maps.values())


def test_nothing_is_recorded_where_nothing_is_wanted(video):
    features = video["features"].clone().requires_grad_()
    with torch.no_grad():
        assert not run(video, SETTINGS["aot"], features).tokens.requires_grad
    with torch.inference_mode():
        assert not run(video, SETTINGS["aot"], features).tokens.requires_grad
    assert run(video, SETTINGS["aot"]).tokens.grad_fn is None
    newline = torch.ones(3, dtype=torch.float64, requires_grad=True)
    run(video, SETTINGS["aot"], newline=newline, newline_position="frame").tokens.sum().backward()
    assert newline.grad.tolist() == [4.0] * 3


def test_clips_in_groups_and_a_stream_have_gradients(video, monkeypatch):
    whole = video["features"].clone().requires_grad_()
    config = AOTConfig(retention=0.3, clip_length=2)
    (run(video, config, whole).tokens * torch.arange(3)).sum().backward()
    monkeypatch.setattr("aot.methods.aot.COST_BYTES", 1)  # a clip a group
    parts = video["features"].clone().requires_grad_()
    (run(video, config, parts).tokens * torch.arange(3)).sum().backward()
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-6, atol=1e-6)
    streamed = video["features"].clone().requires_grad_()
    stream = VideoStream(config)
    closed = stream.push(streamed, video["shallow"], video["deep"]) + stream.finish()
    (join(closed).tokens * torch.arange(3)).sum().backward()
    torch.testing.assert_close(streamed.grad, whole.grad, rtol=1e-6, atol=1e-6)


def test_half_precision_gets_gradients_in_its_own_type(video):
    for dtype in (torch.bfloat16, torch.float16):
        features = video["features"].to(dtype).requires_grad_()
        run(video, SETTINGS["aot"], features).tokens.float().sum().backward()
        assert features.grad.dtype == dtype and bool(features.grad.isfinite().all())


def test_aggregate_and_merge_in_float64():
    generator = torch.Generator().manual_seed(2)
    plan = torch.rand(2, 6, 2, generator=generator)
    tokens = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    starts = torch.tensor([0, 2])

    def moved(tokens):
        carried = aggregate(plan, tokens, starts, 2)
        return merge(tokens[:2, :2], carried, plan.sum(1), strength=1.0, cap=0.5)

    assert torch.autograd.gradcheck(moved, tokens)


def test_a_kernel_without_backward_is_not_taken():
    tokens = torch.zeros(1, 4, 2, requires_grad=True)
    plan, starts = torch.zeros(1, 4, 2), torch.zeros(1, dtype=torch.int64)
    assert aggregate(plan, tokens, starts, 1, backend="auto").requires_grad
    with pytest.raises(AOTError, match="aggregate cannot run: it has no backward"):
        aggregate(plan, tokens, starts, 1, backend="triton")
