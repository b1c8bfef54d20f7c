"""Which of reference and kernel runs, without running a kernel."""

import sys

import pytest
import torch

from aot import AOTError
from aot.ops import facility_location, merge_clips, sinkhorn, softmax_plan, temporal_change, use_triton


@pytest.fixture
def asked(monkeypatch):
    """As on a GPU of compute capability 9.0: what each operation was told about its kernel; the reference runs."""
    told = []
    monkeypatch.setattr("aot.ops.common._obstacle", lambda tensors: None)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    for name in ("facility_location", "inter_frame", "sinkhorn", "softmax_plan"):
        monkeypatch.setattr(
            sys.modules[f"aot.ops.{name}"],
            "use_triton",
            lambda *arguments, **limits: told.append(use_triton(*arguments, **limits)),
        )
    return told


def meta(*size, dtype=torch.float32):
    return torch.empty(*size, dtype=dtype, device="meta")


def choose(tokens, **settings):
    cost, weight = meta(1, tokens, tokens), meta(1, tokens)
    count = meta(1, dtype=torch.int64)
    return facility_location(cost, weight, None, weight > 0, count, max_steps=1, max_cost=2.0, **settings)


def spread(anchors, **settings):
    anchor = meta(1, anchors, dtype=torch.int64)
    return softmax_plan(meta(1, 3, anchors), anchor, anchor > 0, meta(1, 3), epsilon=0.1, **settings)


def balance(columns, **settings):
    return sinkhorn(meta(1, 3, columns), meta(1, 3), meta(1, columns), epsilon=0.1, iterations=1, **settings)


def walk(tokens, **settings):
    present = torch.ones(1, 1, tokens, dtype=torch.bool)
    rules = {"epsilon": 0.1, "iterations": 1, "stop": "never", "tolerance": 1e-3, "temporal_sigma": 1.5}
    rules |= {"keep_ratio": 0.3, "threshold": 0.5, "strength": 1.0, "cap": 0.5}
    return merge_clips(torch.ones(1, 1, tokens, 4), present, present.float(), **rules, **settings)


@pytest.mark.parametrize(
    ("operation", "most", "of"),
    [
        (choose, 4096, "tokens a problem"),
        (spread, 2048, "columns"),
        (balance, 2048, "columns"),
        (walk, 128, "a frame keeps 129 tokens"),
    ],
)
def test_a_kernel_is_asked_for_as_much_as_it_takes_and_no_more(asked, operation, most, of):
    for size in (1, most):
        operation(size, backend="triton")
    operation(most + 1)
    assert asked == [True, True, False]
    with pytest.raises(AOTError, match=f"cannot run: .*{of}.*; use backend='auto' or 'reference'"):
        operation(most + 1, backend="triton")


def test_the_rule_that_couples_problems_has_no_kernel(asked):
    balance(3, stop="change")
    balance(3, stop="change_batch")
    assert asked == [True, False]
    with pytest.raises(AOTError, match="couples the problems"):
        balance(3, stop="change_batch", backend="triton")


@pytest.mark.parametrize(("tokens", "taken"), [(2048, True), (2049, False)])
def test_automatic_choice_leaves_long_problems_to_the_reference(asked, tokens, taken):
    choose(tokens)
    choose(tokens, backend="triton")
    assert asked == [taken, True]


def test_automatic_choice_takes_the_reference_without_a_gpu():
    assert not use_triton("auto", "temporal_change", torch.ones(1))


def test_an_explicit_request_that_cannot_be_met_is_refused():
    with pytest.raises(AOTError, match="triton kernel of temporal_change cannot run.*backend='auto'"):
        temporal_change(torch.ones(1, 4, 8), backend="triton")
