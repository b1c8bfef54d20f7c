"""The environment that the scripts make: nothing of the user's is deleted, and two at a time do not meet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = "set -euo pipefail; . {root}/scripts/environment.sh; find_python() {{ echo {python}; }}; make_environment"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the scripts are for bash")


def make(folder: Path) -> subprocess.Popen:
    command = MAKE.format(root=ROOT, python=sys.executable)
    return subprocess.Popen(["bash", "-c", command], cwd=folder, stderr=subprocess.PIPE, text=True)


def test_an_environment_without_pip_gets_it_and_keeps_the_rest(tmp_path):
    """As uv makes it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (tmp_path / ".venv" / "mine.txt").write_text("mine")
    made = make(tmp_path)
    assert made.wait(120) == 0, made.stderr.read()
    assert (tmp_path / ".venv" / "mine.txt").read_text() == "mine"
    subprocess.run([tmp_path / ".venv" / "bin" / "python", "-c", "import pip"], check=True)


def test_two_at_a_time_make_one_environment(tmp_path):
    both = [make(tmp_path) for _ in range(2)]
    told = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(told).count("making .venv") == 1


def test_a_stage_that_is_none_trains_nothing(tmp_path):
    command = ["bash", ROOT / "scripts" / "train_tiny.sh", "--until", "answer", "--runs", tmp_path / "runs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "there is no stage answer" in done.stderr and not (tmp_path / "runs").exists()
