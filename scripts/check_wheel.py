"""Installs the wheel of a folder into an empty environment, and uses it as a new user would.

The environment has its own copy of the wheel and nothing else. What the wheel depends on is lent to it by the running
one, so that no gigabytes are fetched. usage: python scripts/check_wheel.py dist
"""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

CARRIED = (
    "aot/py.typed",
    "aot_cli/main.py",
    "aot_tiny/shapes/clips.py",
    "llava/checkpoints/aot-tiny/model.safetensors",
    "llava/lmms_eval_tasks/aot_clips/aot_clips.yaml",
    "llava/eval/tables/published.yaml",
    "llava/eval/tables/leaderboard.html",
)
SOURCES = ("checkpoints/aot-tiny/model.safetensors", "lmms_eval_tasks/aot_clips/aot_clips.yaml", "LICENSE", "setup.py")
QUESTION = "What shape is the yellow object?"


def main(dist: Path) -> None:
    wheel, sdist = only(dist, "*.whl"), only(dist, "*.tar.gz")
    check_contents(wheel, sdist)
    with tempfile.TemporaryDirectory() as scratch:
        use(wheel, Path(scratch))


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    assert len(found) == 1, f"{folder} has {len(found)} files {pattern}; remove it and build again."
    return found[0]


def check_contents(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    missing = [name for name in CARRIED if name not in names]
    strange = {name.split("/")[0] for name in names} - {"aot", "aot_cli", "aot_tiny", "llava"}
    assert not missing, f"the wheel lacks {missing}"
    assert all(name.endswith(".dist-info") for name in strange), f"the wheel carries {strange}"
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert not set(SOURCES) - sources, f"the sdist lacks {set(SOURCES) - sources}"


def use(wheel: Path, folder: Path) -> None:
    """Runs `aot` from the installed wheel, in a folder without the sources."""
    # 1. an environment with the wheel alone; a line in a .pth file lends it the packages of this one
    home = folder / "environment"
    venv.create(home, with_pip=True)
    python, aot = home / "bin/python", home / "bin/aot"
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel.resolve()], folder)
    packages = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    (Path(packages) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # 2. all packages come from the wheel
    places = "import aot, aot_cli, aot_tiny, llava as l; print(*(m.__file__ for m in (aot, aot_cli, aot_tiny, l)))"
    found = run([python, "-c", places], folder).split()
    assert all(place.startswith(packages) for place in found), f"not from the wheel: {found}"
    # 3. its commands, on its own model
    version = run([aot, "--version"], folder)
    assert version.startswith(f"aot {wheel.name.split('-')[1]} "), version
    run([aot, "clip", "clip.mp4"], folder)
    answer = json.loads(run([aot, "chat", "clip.mp4", "--question", QUESTION, "--retention", "10%", "--json"], folder))
    print(f"{wheel.name}: {version.strip()}; {QUESTION} {json.dumps(answer)[:300]}")


def run(command: list, folder: Path) -> str:
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, env=others)
    assert done.returncode == 0, f"{command} failed: {done.stdout}{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
