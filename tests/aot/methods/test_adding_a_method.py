"""The worked example of docs/baselines.md runs as it stands, and its own tests pass."""

import re
from pathlib import Path

import pytest

from aot import AOTConfig, AOTError, method_names, registry
from aot.types import VideoTokens

PAGE = Path(__file__).parents[3] / "docs" / "baselines.md"


@pytest.fixture
def example(monkeypatch):
    """Everything that the code blocks of the page define, run one after the other; the method is gone afterwards."""
    monkeypatch.setitem(registry.METHODS, "distinct", None)
    del registry.METHODS["distinct"]
    names = {"__name__": "example"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_example_runs_and_is_counted(example, capsys):
    assert "distinct" in method_names()
    assert example["video"].num_visual == int(0.1 * 8 * 14 * 14)
    assert example["video"].summary()["method"] == "distinct"


def test_its_own_tests_pass(example):
    tests = [value for name, value in example.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_its_options_are_checked(example):
    with pytest.raises(AOTError, match="option attention_power"):
        AOTConfig(method="distinct", options={"attention_power": -1})


def test_it_is_gone_afterwards():
    assert "distinct" not in method_names()


def test_what_the_page_says_of_a_video_is_there():
    prose = re.sub(r"```.*?```", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"`video\.(\w+)", prose))
    assert {"pooled_shallow", "pooled_deep"} <= named
    there = {*dir(VideoTokens), *VideoTokens.__dataclass_fields__}
    assert named <= there, named - there
