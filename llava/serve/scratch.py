"""Folders for files that live as long as one request: private, and swept when a server was killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ScratchError(ValueError):
    """The place for the folders cannot be used; one sentence."""


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A new folder that this user alone may enter, removed at the end.

    What earlier processes left under the same name is removed first. A folder in use is known by its lock, which
    goes with its process however that ends. Raises ScratchError when somebody else holds the place.
    """
    base = Path(tempfile.gettempdir()).resolve() / f"{name}-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.is_symlink() or base.stat().st_uid != os.getuid():
        raise ScratchError(f"{base} belongs to somebody else; remove it, or choose another folder by TMPDIR.")
    with open(base / "lock", "w") as sweeping:
        fcntl.flock(sweeping, fcntl.LOCK_EX)  # nobody sweeps a folder between its making and its lock
        for left in base.iterdir():
            if left.is_dir() and (lock := _lock(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
        folder = Path(tempfile.mkdtemp(dir=base))
        lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """The descriptor that locks a folder until it is closed; None when another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
