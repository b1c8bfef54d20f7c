"""What several parts of the package need and no library has: light, imports nothing of the project."""

import fcntl
import gc
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).parent


def shipped(folder: str) -> Path | None:
    """The path of a folder that comes with the project, such as "checkpoints/aot-tiny".

    It stands beside the packages in a checkout and inside `llava` in an installation; None where it is in neither.
    """
    return next((root / folder for root in (_PACKAGE.parent, _PACKAGE) if (root / folder).is_dir()), None)


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of Python and of packages; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def needed_module(name: str, who: str, extra: str) -> ModuleType:
    """A module that packages of an extra must be installed for; ValueError says how."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"{who} needs {error.name}; run pip install 'aot-video[{extra}]'.") from error


@contextmanager
def gc_disabled(*, freeze: bool = False) -> Iterator[None]:
    """No collection inside: imports and models make objects by the hundred thousand and none of them is garbage.

    A sixth of the time until a model is loaded goes into looking at them again and again. freeze: what exists at the
    end is never looked at again, for a program at its start, whose modules stay.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if collecting:
            gc.enable()


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A new folder that this user alone may enter, removed at the end.

    What earlier processes left under the same name is removed first. A folder in use is known by its lock, which
    goes with its process however that ends. Raises ValueError when somebody else holds the place.
    """
    base = Path(tempfile.gettempdir()).resolve() / f"{name}-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.is_symlink() or base.stat().st_uid != os.getuid():
        raise ValueError(f"{base} belongs to somebody else; remove it, or choose another folder by TMPDIR.")
    with open(base / "lock", "w") as sweeping:
        fcntl.flock(sweeping, fcntl.LOCK_EX)  # nobody sweeps a folder between its making and its lock
        for left in base.iterdir():
            if left.is_dir() and (lock := lock_folder(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
        folder = Path(tempfile.mkdtemp(dir=base))
        lock = lock_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def lock_folder(folder: Path) -> int | None:
    """The descriptor that locks a folder until it is closed; None when another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
