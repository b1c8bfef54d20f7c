"""Names of the last release work as before and say what they became."""

import sys

import pytest
import torch

import aot
from aot import AOTConfig, AOTError
from aot.registry import METHODS, get_method, register

OLD = {"schedule": "cascade", "retention": None, "num_anchors": 9, "supplier_mass": "attention", "hard_blend": 0.2}
OLD |= {"stop": "never", "emission": "twice", "newlines": "all"}
NEW = {"variant": "paper", "retention": None, "num_anchors": 9, "source_mass": "attention", "hard_assignment": 0.2}
NEW |= {"sinkhorn_stop": "never", "emit_anchors": "twice", "newlines": "all"}


def test_old_settings_give_the_same_configuration_and_a_warning():
    expected = AOTConfig(**NEW)
    for make in (
        lambda: AOTConfig(**OLD),
        lambda: AOTConfig.from_dict(OLD),
    ):
        with pytest.warns(DeprecationWarning, match="is now called") as warned:
            assert make() == expected
        said = {str(warning.message).split(" is now called ")[0] for warning in warned}
        assert said == {f"The setting {name}" for name in OLD.keys() - NEW.keys()}
        here = (__file__, make.__code__.co_firstlineno)  # where the lambda is written
        assert {(warning.filename, warning.lineno) for warning in warned} == {here}
    with pytest.warns(DeprecationWarning, match="uniform_share is now called uniform_marginal"):
        assert AOTConfig(uniform_share=0.5) == AOTConfig(uniform_marginal=0.5)
    with pytest.warns(DeprecationWarning, match="schedule is now called variant"):
        assert AOTConfig.from_dict({"schedule": "joint"}) == AOTConfig()
    with pytest.warns(DeprecationWarning, match="emission is now called emit_anchors"):
        released = AOTConfig.preset("released", emission="once")
    assert released == AOTConfig.preset("released", emit_anchors="once")
    with pytest.warns(DeprecationWarning, match="stop is now called sinkhorn_stop"):
        assert expected.replace(stop="problem") == expected.replace(sinkhorn_stop="problem")


def test_old_settings_can_be_read():
    with pytest.warns(DeprecationWarning, match="schedule is now called variant"):
        assert AOTConfig(**NEW).schedule == "cascade"
    with pytest.warns(DeprecationWarning):
        assert AOTConfig().schedule == "joint" and AOTConfig().uniform_share == 0
    assert not hasattr(AOTConfig(), "schedules")


def test_a_setting_under_both_names_and_a_bad_value_are_refused():
    with pytest.raises(AOTError, match="stop is now called sinkhorn_stop, and both are given"):
        AOTConfig(stop="never", sinkhorn_stop="never", uniform_marginal=0.5)
    with pytest.warns(DeprecationWarning), pytest.raises(AOTError, match="'row'; use one of: default, paper"):
        AOTConfig(schedule="row")


def test_old_names_of_the_package():
    with pytest.warns(DeprecationWarning, match="aot.Kind is now called aot.TokenKind"):
        assert aot.Kind is aot.TokenKind
    with pytest.warns(DeprecationWarning, match="aot.baselines is now called aot.methods"):
        assert aot.__getattr__("baselines") is aot.methods
    with pytest.raises(AttributeError, match="no attribute 'Kinds'"):
        _ = aot.Kinds


def test_a_method_written_by_the_old_page_runs():
    """The imports that the page on adding a method had."""
    source = """
from aot.ranks import rank_descending, true_indices
from aot.baselines.budgets import even_budgets
from aot.checks import number
from aot.result import Kind, Selection, kept
from aot.scores import unit
from aot.video import VideoTokens
"""
    names = {}
    with pytest.warns(DeprecationWarning, match="The module aot.baselines.budgets is now called aot.budget"):
        exec(source, names)
    selection = names["kept"](torch.ones(1, 2), torch.tensor([3]), (2, 2), kind=names["Kind"].LOCAL)
    assert type(selection) is names["Selection"] is aot.types.Selection and names["Kind"] is aot.TokenKind
    assert selection.position.tolist() == [[1, 1]] and names["even_budgets"](3, 2) == [1, 2]


def test_old_arguments_of_register():
    try:
        with pytest.warns(DeprecationWarning, match="(needs|inside)= is now called") as warned:
            aot.register("old", needs=("keys",), inside=True)(print)
        assert len(warned) == 2 and get_method("old").requires == ("keys",) and get_method("old").in_llm
    finally:
        METHODS.pop("old", None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'want'"):
        aot.register("old", want=())


def test_modules_inside_a_renamed_package_are_the_new_ones():
    with pytest.warns(DeprecationWarning, match="aot.methods.visionzip"):
        import aot.baselines.visionzip
    assert sys.modules["aot.baselines.visionzip"] is sys.modules["aot.methods.visionzip"]
    with pytest.raises(ModuleNotFoundError):
        import aot.baselines.nothing  # noqa: F401


def test_a_keyword_under_both_names_is_refused():
    with pytest.raises(AOTError, match="needs and requires are given"):
        register("both", needs=("deep",), requires=("deep",))


@pytest.mark.parametrize(
    "settings", [{"requires": "deep"}, {"tuned": {"b": 2}}, {"options": {"a": 1}, "tuned": {"b": 2}}]
)
def test_registrations_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(AOTError, match="requires is 'deep'|no option of method 'odd'"):
        register("odd", **settings)
