"""What a result was made with: versions, commit, hardware."""

import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("aot-video", "torch", "transformers", "tokenizers", "lmms-eval", "accelerate", "numpy", "av", "decord")


def environment() -> dict[str, Any]:
    """Versions, commit and hardware of this machine, as plain JSON values."""
    return {"versions": versions(), "commit": commit(), "hardware": hardware()}


@lru_cache
def versions() -> dict[str, str | None]:
    """Installed versions by package name; None for what is not installed."""
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit(root: Path | None = None) -> dict[str, Any] | None:
    """The commit of the source tree and whether files differ from it; None outside a git checkout."""
    root = root or Path(__file__).resolve().parents[3]
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
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
    }


def _processor() -> str:
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
