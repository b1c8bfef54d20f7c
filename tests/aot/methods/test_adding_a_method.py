"""The worked example of docs/baselines.md runs as it stands, and its own tests pass."""

import re
import shutil
import subprocess
import sys
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


def test_it_stands_in_the_folder_of_methods(tmp_path):
    """As the page says: a file of its own, named in the list of methods."""
    shutil.copytree(PAGE.parents[1] / "aot", tmp_path / "aot", ignore=shutil.ignore_patterns("__pycache__"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (block,) = [block for block in blocks if "@register" in block]
    (tmp_path / "aot" / "methods" / "distinct.py").write_text(block)
    listed = tmp_path / "aot" / "methods" / "__init__.py"
    listed.write_text(listed.read_text() + "from . import distinct\n")
    run = [sys.executable, "-c", "import aot; print(aot.__file__, 'distinct' in aot.method_names())"]
    found = subprocess.run(run, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert found.stdout.strip() == f"{tmp_path / 'aot' / '__init__.py'} True", found.stderr


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
