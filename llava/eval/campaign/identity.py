"""What a result depends on, as hashes: a run whose checkpoint, settings or task changed is another run."""

import hashlib
import json
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WEIGHTS = ("*.safetensors", "*.bin", "config.json")


def digest(value: Any) -> str:
    """SHA-256 of a value of plain JSON parts, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def checkpoint_hash(checkpoint: str, *, cache: Path | None = None) -> str | None:
    """SHA-256 over a checkpoint folder's weights and configuration; None for a name on the hub.

    cache: a JSON file that remembers the hash of each file by its path, size and time, since reading the weights
    of a large model takes a minute.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return None
    known = _read_cache(cache)
    whole = hashlib.sha256()
    for path in sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}):
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in known:
            known[key] = file_hash(path)
        whole.update(f"{path.name}:{known[key]}\n".encode())
    if cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(".part")
        part.write_text(json.dumps(known, indent=0))
        part.replace(cache)
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
    defines = re.compile(rf"^(task|group):\s*[\"']?{re.escape(task)}[\"']?\s*$", re.MULTILINE)
    for root in [*harness_folders("tasks"), *([Path(include_path)] if include_path else [])]:
        for path in sorted(root.rglob("*.yaml")):
            if defines.search(path.read_text(encoding="utf-8", errors="replace")):
                files = sorted(p for p in path.parent.rglob("*") if p.is_file() and p.suffix in (".yaml", ".py", ""))
                return digest([[str(p.relative_to(path.parent)), file_hash(p)] for p in files])
    return None


def harness_folders(part: str) -> list[Path]:
    """The folder `part` of the installed lmms-eval, found without importing it; none when it is not installed."""
    spec = find_spec("lmms_eval")
    roots = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [Path(root) / part for root in roots if (Path(root) / part).is_dir()]


def _read_cache(cache: Path | None) -> dict[str, str]:
    if cache is None or not cache.is_file():
        return {}
    return json.loads(cache.read_text())
