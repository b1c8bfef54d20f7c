"""Settings: validation, presets, counts, round trips."""

import json
import pickle
from dataclasses import FrozenInstanceError
from decimal import ROUND_UP, Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from aot import AOTConfig, AOTError, method_names

PAPER = {"variant": "paper", "retention": None, "num_anchors": 9}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retention": 0}, "retention"),
        ({"retention": -0.1}, "retention"),
        ({"retention": 1.5}, "retention"),
        ({"retention": float("nan")}, "retention"),
        ({"retention": "0.1"}, "retention"),
        ({"retention": True}, "retention"),
        ({"max_tokens": 0}, "max_tokens is 0; use at least 1"),
        ({"max_tokens": 9.5}, "max_tokens is 9.5; use a whole number"),
        ({"max_tokens": "9"}, "max_tokens is '9'; use a whole number"),
        ({"max_tokens": True}, "max_tokens is True; use a whole number"),
        ({**PAPER, "max_tokens": 9}, "leave max_tokens out and set num_anchors"),
        ({"method": "fastv", "max_tokens": 9}, "All tokens enter the language model under method 'fastv'"),
        ({"keep": 3}, "Unknown setting keep"),
        ({"method": "magic"}, "Unknown method 'magic'"),
        ({"method": ["aot"]}, "Unknown method \\['aot'\\]"),
        ({"method": "random", "options": {"sede": 1}}, "has no option sede"),
        ({"method": "random", "options": {1: 2, "sede": 1}}, "has no option 1, sede"),
        ({"method": "random", "options": {"seed": 0.5}}, "seed"),
        ({"options": {"seed": 1}}, "has no option seed; its options are: none"),
        ({"options": 3}, "options"),
        ({"newlines": "some"}, "newlines"),
        ({"epsilon": 0}, "epsilon"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"iterations": 0}, "iterations"),
        ({"iterations": 2.5}, "whole number"),
        ({"clip_length": 0}, "clip_length"),
        ({"merge_cap": 2}, "merge_cap"),
        ({"num_anchors": 126}, "num_anchors belongs"),
        ({"hard_assignment": 0.1}, "no effect in variant 'default'"),
        ({"method": "evs", "epsilon": 5, "variant": "paper", "num_anchors": 9, "retention": None}, "num_anchors"),
        ({"method": "evs", "epsilon": 5, "variant": "paper"}, "variant has no effect under method 'evs'"),
        ({"method": "random", "epsilon": 5}, "epsilon has no effect under method 'random'"),
        ({"method": "uniform", "clips": "dynamic"}, "clips has no effect under method 'uniform'"),
        ({"method": "fastv", "clip_length": 8}, "clip_length has no effect under method 'fastv'"),
        ({"hard_assignment": 0.5}, "hard_assignment has no effect in variant 'default'"),
        ({"iterations": 5}, "iterations has no effect where uniform_marginal is 0"),
        ({"tolerance": 0.1}, "tolerance has no effect where uniform_marginal is 0"),
        ({"sinkhorn_stop": "never"}, "sinkhorn_stop has no effect where uniform_marginal is 0"),
        (
            {"uniform_marginal": 1, "sinkhorn_stop": "never", "tolerance": 0.1},
            "tolerance has no effect where sinkhorn_stop is 'never'",
        ),
        ({"clip_threshold": 0.5}, "clip_threshold has no effect where clips is 'uniform'"),
        ({"clip_cuts": 4}, "clip_cuts has no effect where clips is 'uniform'"),
        ({"merge_strength": 0, "merge_cap": 0.2}, "merge_cap has no effect where merge_strength is 0"),
        ({"merge_strength": 2, "merge_cap": 0}, "merge_strength has no effect where merge_cap is 0"),
        ({**PAPER, "uniform_marginal": 0.5}, "no effect in variant 'paper'"),
        ({**PAPER, "dynamic_threshold": 0.2}, "dynamic_threshold has no effect where dynamic_rule is 'quantile'"),
        ({**PAPER, "dynamic_rule": "threshold", "keep_ratio": 0.2}, "keep_ratio has no effect"),
        ({**PAPER, "clips": "dynamic", "clip_length": 4}, "clip_length has no effect"),
        ({**PAPER, "inter_frame": False, "temporal_sigma": 2}, "temporal_sigma has no effect"),
        ({**PAPER, "inter_frame": False, "clips": "dynamic"}, "clips has no effect"),
        ({**PAPER, "merge_strength": 0, "inter_scale": 0, "merge_cap": 1}, "merge_cap has no effect"),
        ({"sinkhorn_stop": "batch"}, "sinkhorn_stop"),
        ({"variant": "paper", "retention": None}, "needs num_anchors"),
        ({"variant": "paper", "retention": 0.1}, "counts of their own"),
        ({"variant": "paper", "retention": None, "num_anchors": 9, "change_power": 1}, "no effect"),
        ({"inter_frame": 1}, "inter_frame"),
        ({"backend": "fast"}, "backend"),
        ({"newlines": np.array(["row", "all"])}, "newlines is array"),
        ({"retention": Decimal("sNaN")}, "retention is Decimal\\('sNaN'\\); use a number in"),
        ({"epsilon": 1e-40}, "epsilon is 1e-40; use a number in"),
        ({"spatial_weight": 1e38}, "spatial_weight is 1e\\+38; use a number in"),
        ({"max_tokens": 10**30}, "max_tokens is 10{30}; use at most"),
        ({"method": "random", "options": {"seed": 2**64}}, "option seed is .* use at most"),
        ({"method": "dycoke", "options": {"window": 10**30}}, "option window is .* use at most"),
        ({**PAPER, "sinkhorn_stop": "batch", "epsilon": 0.01}, "sinkhorn_stop 'batch' iterates"),
    ],
)
def test_bad_settings_give_one_clear_sentence(settings, message):
    with pytest.raises(AOTError, match=message) as error:
        AOTConfig.from_dict(settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("paper", {"inter_frame": False}),
        ("paper", {"merge_strength": 0, "inter_scale": 0}),
        ("released", {"sinkhorn_stop": "never"}),
        ("released", {"inter_frame": False, "keep_ratio": 0.4}),
    ],
)
def test_a_presets_own_values_go_where_a_change_leaves_them_without_effect(preset, changes):
    config = AOTConfig.preset(preset, **changes)
    assert all(getattr(config, name) == value for name, value in changes.items())
    assert AOTConfig.from_dict(config.to_dict()) == config
    with pytest.raises(AOTError, match="no effect"):
        AOTConfig.preset(preset, **changes, clips="dynamic", clip_length=4)


@pytest.mark.parametrize("method", method_names())
def test_every_field_of_aot_is_refused_under_another_method(method):
    if method == "aot":
        return
    others = {"epsilon": 5, "variant": "paper", "clips": "dynamic", "sinkhorn_stop": "never", "inter_frame": False}
    defaults = AOTConfig().to_dict()
    read = {"retention", "max_tokens", "method", "options", "newlines", "backend", "tower_reuse", "clip_length"}
    for name in defaults.keys() - read:
        value = others.get(name, {str: "twice", float: 0.123, int: 3, type(None): 5}.get(type(defaults[name])))
        choices = {"source_mass": "attention", "dynamic_rule": "threshold"}
        with pytest.raises(AOTError, match=f"^{name} (has no effect|belongs)"):
            AOTConfig(method=method, **{name: choices.get(name, value)})
    full = AOTConfig(method=method).to_dict()
    assert AOTConfig.from_dict(full | {"retention": 0.3}).retention == 0.3


@pytest.mark.parametrize("preset", ["released", "paper"])
def test_presets_with_counts_of_their_own_refuse_a_retention(preset):
    for bound in ({"retention": 0.1}, {"max_tokens": 100}):
        with pytest.raises(ValueError, match="counts of their own"):
            AOTConfig.preset(preset, **bound)
    with pytest.raises(AOTError, match="unknown before"):
        AOTConfig.preset(preset).token_count(32, 196)


def test_unknown_preset_and_non_mapping():
    with pytest.raises(AOTError, match="Unknown preset"):
        AOTConfig.preset("best")
    with pytest.raises(AOTError, match="mapping"):
        AOTConfig.from_dict([("retention", 0.1)])


@pytest.mark.parametrize("preset", ["default", "paper", "released"])
def test_round_trips(preset):
    config = AOTConfig.preset(preset, epsilon=0.07)
    again = AOTConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and hash(again) == hash(config)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("method", "option", "low", "high"),
    [
        ("fastvid", "threshold", -1, 1),
        ("fastvid", "salient", 0, 1),
        ("fastvid", "anchor_weight", 0, 1),
        ("holitom", "threshold", -1, 1),
        ("holitom", "center_weight", 0, 1),
        ("ott_vid", "temporal_share", 0, 1),
        ("prunevid", "segments", 0, 1),
        ("prunevid", "threshold", -1, 1),
        ("visionzip", "dominant", 0, 1),
    ],
)
def test_options_end_where_their_method_says(method, option, low, high):
    for value in (low, high):
        assert AOTConfig(method=method, options={option: value}).options[option] == value
    for value in (low - 0.01, high + 0.01):
        with pytest.raises(AOTError, match=rf"option {option} is .*; use a number in \[{low}, {high}\]"):
            AOTConfig(method=method, options={option: value})


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("holitom", "neighbours"),
        ("prunevid", "neighbours"),
        ("fastvid", "cuts"),
        ("fastvid", "stride"),
        ("fastvid", "neighbours"),
    ],
)
def test_counts_among_the_options_begin_at_one(method, option):
    assert AOTConfig(method=method, options={option: 1}).options[option] == 1
    with pytest.raises(AOTError, match=f"option {option} is 0; use at least 1"):
        AOTConfig(method=method, options={option: 0})


def test_methods_round_trip_with_their_options():
    for method in method_names():
        config = AOTConfig(method=method)
        assert AOTConfig.from_dict(config.to_dict()) == config
    assert AOTConfig(method="random").to_dict()["options"] == {"seed": 0}


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        AOTConfig().retention = 0.5


@pytest.mark.parametrize(
    ("retention", "frames", "tokens", "visual"),
    [
        (0.58, 1, 50, 29),  # 0.58 * 50 = 28.999999999999996 in floats
        (0.29, 1, 100, 29),
        (0.1, 32, 196, 627),
        (0.02, 1, 4, 1),
        (1, 7, 169, 1183),
        (1.0, 128, 729, 93312),
        (Decimal("0.1"), 1, 30, 3),
        (np.float32(0.1), 1, 30, 3),
        (1e-9, 2, 2, 1),
    ],
)
def test_token_count_is_decimal(retention, frames, tokens, visual):
    config = AOTConfig(retention=retention)
    assert config.token_count(frames, tokens) == (visual, frames)
    assert isinstance(config.token_count(frames, tokens)[0], int)


def test_newline_counts():
    count = AOTConfig().token_count
    assert count(16, 36, newline_position="frame") == (57, 16)
    assert count(16, 36, newline_position="one_token") == (57, 1)
    assert count(16, 36, newline_position="no_token") == (57, 0)
    assert AOTConfig(newlines="all").token_count(64, 169) == (1081, 64 * 13)
    assert AOTConfig(newlines="all").token_count(2, 35, rows=5) == (7, 10)
    assert AOTConfig(newlines="none").token_count(2, 35) == (7, 0)
    for bad in (
        lambda: AOTConfig(newlines="row").token_count(2, 36),
        lambda: AOTConfig(newlines="all").token_count(2, 35),
        lambda: count(2, 36, newline_position="rows"),
        lambda: count(0, 36),
        lambda: count(2.0, 36),
        lambda: AOTConfig().newline_count(0, 36, newline_position="frame"),
        lambda: AOTConfig(newlines="all").newline_count(2, 36, rows=-1),
        lambda: AOTConfig().newline_count(2, "36", newline_position="no_token"),
    ):
        with pytest.raises(AOTError):
            bad()


RANGES = {  # lowest, highest, is the lowest allowed, and what makes the setting count
    "global_ratio": (0, 1, True, {}),
    "attention_power": (0, 8, True, {}),
    "change_power": (0, 8, True, {}),
    "uniform_marginal": (0, 1, True, {}),
    "merge_cap": (0, 1, True, {}),
    "tolerance": (0, 1, False, {"uniform_marginal": 0.5}),
    "clip_threshold": (-1, 1, True, {"clips": "dynamic"}),
    "hard_assignment": (0, 1, True, {"preset": "paper"}),
    "keep_ratio": (0, 1, True, {"preset": "released"}),
    "dynamic_threshold": (0, 1, True, {"preset": "paper"}),
    "retention": (0, 1, False, {}),
    "distortion": (0, 1e6, False, {}),
    "spatial_weight": (0, 1e6, True, {}),
    "temporal_weight": (0, 1e6, True, {}),
    "merge_strength": (0, 1e6, True, {}),
    "inter_scale": (0, 1e6, True, {"preset": "paper"}),
    "epsilon": (1e-6, 1e6, True, {}),
    "temporal_sigma": (1e-3, 1e6, True, {"preset": "paper"}),
}


@pytest.mark.parametrize("name", RANGES)
def test_ranges_hold_to_their_ends(name):
    low, high, closed, others = RANGES[name]
    others = dict(others)
    preset = others.pop("preset", "default")
    for value in (low, low + 1e-9, (low + high) / 2, high):
        if value > low or closed:
            assert getattr(AOTConfig.preset(preset, **others, **{name: value}), name) == value
    for value in (low - 1e-6, high + 1e-6, *([] if closed else [low])):
        with pytest.raises(AOTError, match=name):
            AOTConfig.preset(preset, **others, **{name: value})


@pytest.mark.parametrize("places", [1, 4])
def test_the_callers_decimal_context_changes_no_budget(places):
    with localcontext(Context(prec=places, rounding=ROUND_UP)):
        assert AOTConfig(retention=Fraction(1, 3)).budget(64, 144) == 3072 - 1  # 0.333…3 of 9,216
        assert AOTConfig(max_tokens=777).on_video(64, 144).budget(64, 144) == 777
        assert AOTConfig(retention=0.0371).token_count(77, 196) == (559, 77)


def test_from_dict_leaves_a_configuration_as_it_is():
    config = AOTConfig(retention=0.2)
    assert AOTConfig.from_dict(config) is config


@pytest.mark.parametrize(
    "name", [name for name, value in AOTConfig().to_dict().items() if isinstance(value, int | float)]
)
def test_a_number_that_must_be_there_is_not_left_out(name):
    if name != "retention":  # which other bounds may replace
        with pytest.raises(AOTError, match=name):
            AOTConfig(**{name: None})
