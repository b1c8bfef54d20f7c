import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def harness(monkeypatch):
    """The name of the module that stands for lmms-eval, found by child processes too."""
    root = str(HERE.parents[1])
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{root}")
    monkeypatch.syspath_prepend(str(HERE))
    sys.modules.pop("fake_harness", None)
    return "fake_harness"


@pytest.fixture
def checkpoint(tmp_path):
    """A folder that passes for a checkpoint."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def sweep(checkpoint):
    """Plain values of a small sweep: two settings on two tasks."""
    return {
        "name": "small",
        "title": "A small table",
        "models": [{"name": "M", "id": "llava_onevision_aot", "checkpoint": str(checkpoint), "args": {}}],
        "settings": [{"name": "all tokens"}, {"name": "a tenth", "aot": {"retention": 0.1}}],
        "tasks": ["mlvu_dev", "other"],
    }
