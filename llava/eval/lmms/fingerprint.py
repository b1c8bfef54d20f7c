"""Which weights a checkpoint holds, told without reading all of a large one."""

import hashlib
import os
from pathlib import Path

_BLOCK = 1 << 16
_BLOCKS = 256  # a file: 16 MiB read at most


def checkpoint_folder(path: str | os.PathLike) -> Path:
    """The folder of a checkpoint: itself, or where the hub's files of that name were downloaded to."""
    if Path(path).is_dir():
        return Path(path)
    from transformers.utils import cached_file

    return Path(cached_file(str(path), "config.json")).parent


def checkpoint_fingerprint(folder: Path) -> str:
    """SHA-256 over config.json and over evenly spread blocks of every weight file (all of a file up to 16 MiB)."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        count = min(_BLOCKS, -(-size // _BLOCK))
        with path.open("rb") as file:
            for i in range(count):
                file.seek(i * size // count)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
