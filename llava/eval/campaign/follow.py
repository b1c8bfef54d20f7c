"""A child process whose output goes to a file, and that does not outlive this process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")
POLL = 0.5  # seconds between looks


def follow(words: list[str], log: Path, look: Callable[[], None]) -> int:
    """Runs a command with its output in `log`, calling look() now and then; its exit code.

    The command ends with this process, whatever ends it.
    """
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, str(CHILD), str(os.getpid()), *words],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            while True:
                look()
                try:
                    return child.wait(POLL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()


def last_words(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
