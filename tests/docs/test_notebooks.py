"""Every notebook runs from its first cell to its last, and carries the pictures of such a run."""

import json
from pathlib import Path

import pytest

from aot.registry import METHODS

FOLDER = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(autouse=True)
def methods():
    """A method that a notebook adds is gone afterwards."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook(path, monkeypatch, capsys):
    monkeypatch.chdir(FOLDER)  # as Jupyter opens it
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    names = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), path.name, "exec"), names)
    assert capsys.readouterr().out
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
