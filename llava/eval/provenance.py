"""What a result depends on and was made with: hashes of weights, settings and tasks; versions, commit, hardware.

A run whose checkpoint, settings or task changed is another run.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from llava.eval.jsonl import write_json
from llava.utils import versions

WEIGHTS = ("*.safetensors", "*.bin", "config.json")
PACKAGES = ("aot-video", "torch", "transformers", "tokenizers", "lmms-eval", "accelerate", "numpy", "av", "decord")
_READ = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")  # of a checkpoint
_BLOCK = 1 << 16
_BLOCKS = 256  # a file in a fingerprint: 16 MiB read at most


def digest(value: Any) -> str:
    """SHA-256 of a value of plain JSON parts, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def checkpoint_hash(folder: Path, cache: Path) -> str:
    """SHA-256 over a checkpoint folder's weights and configuration.

    cache: a JSON file that remembers the hash of each file by its path, size and time, since reading the weights
    of a large model takes a minute.
    """
    try:
        known = json.loads(cache.read_text())
    except (FileNotFoundError, ValueError):  # none, or damaged: they are made anew
        known = {}
    whole = hashlib.sha256()
    for path in sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}):
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in known:
            known[key] = file_hash(path)
        whole.update(f"{path.name}:{known[key]}\n".encode())
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_json(cache, known)
    return whole.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            whole.update(block)
    return whole.hexdigest()


@lru_cache
def task_hash(task: str, include_path: str | None = None) -> str | None:
    """SHA-256 over the files of the folder that defines a task: its YAML, prompts and graders.

    lmms-eval's own tasks win over those of include_path, as they do in lmms-eval. None when no file names it.
    """
    spec = find_spec("lmms_eval")  # found without being imported
    roots = [Path(root) / "tasks" for root in (spec and spec.submodule_search_locations) or ()]
    defines = re.compile(rf"^(task|group):\s*[\"']?{re.escape(task)}[\"']?\s*$", re.MULTILINE)
    for root in [*roots, *([Path(include_path)] if include_path else [])]:
        for path in sorted(root.rglob("*.yaml")):
            if defines.search(path.read_text(encoding="utf-8", errors="replace")):
                files = sorted(p for p in path.parent.rglob("*") if p.is_file() and p.suffix in (".yaml", ".py", ""))
                return digest([[str(p.relative_to(path.parent)), file_hash(p)] for p in files])
    return None


def folder_hash(folder: Path, pattern: str) -> str:
    """SHA-256 over the contents of the files of a folder and those below it."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob(pattern)):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def checkpoint_folder(checkpoint: str | os.PathLike) -> Path | None:
    """Where a checkpoint lies: the folder itself, or the snapshot of a hub name in the local cache, or None."""
    name = str(checkpoint)
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/")):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def checkpoint_fingerprint(checkpoint: str | os.PathLike) -> str:
    """SHA-256 over evenly spread blocks of every file of a checkpoint that answers follow from: weights, settings and
    tokenizer (all of a file up to 16 MiB).

    So it is told without reading all of a large checkpoint. A hub name stands for the commit that it names here, whose
    files may be downloaded later.
    """
    from transformers.utils import cached_file

    folder = checkpoint_folder(checkpoint) or Path(cached_file(str(checkpoint), "config.json")).parent
    if folder.parent.name == "snapshots":  # of the hub's cache, named by the commit
        return digest(folder.name)
    whole = hashlib.sha256()
    for path in sorted(file for file in folder.iterdir() if file.suffix in _READ and file.is_file()):
        size = path.stat().st_size
        whole.update(f"{path.name}:{size}".encode())
        count = min(_BLOCKS, -(-size // _BLOCK))
        with path.open("rb") as file:
            for i in range(count):
                file.seek(i * size // count)
                whole.update(file.read(_BLOCK))
    return whole.hexdigest()


def environment() -> dict[str, Any]:
    """Versions, commit and hardware of this machine, as plain JSON values."""
    return {"versions": versions(PACKAGES), "commit": commit(), "hardware": hardware()}


def commit() -> dict[str, Any] | None:
    """The commit of the source tree and whether files differ from it; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "changed": bool(changed)}


def hardware() -> dict[str, Any]:
    """The machine: processor, cores, memory in GiB, and the GPUs by name with theirs."""
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gpus.append({"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)})
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
    }


def processor() -> str:
    """The name of the CPU as the kernel tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
