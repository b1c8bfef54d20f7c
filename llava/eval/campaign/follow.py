"""Child processes whose output goes to a file, and that do not outlive this process."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from llava.eval.campaign.launch import Launch

CHILD = Path(__file__).with_name("child.py")
POLL = 0.5  # seconds between looks


class Starter:
    """Starts the runs of a campaign one after the other; to be used in a `with`.

    Where a run is one process, all runs are forks of one process that has imported lmms-eval already; several
    processes are started anew by torchrun or accelerate each time.
    """

    def __init__(self, launch: Launch):
        self._launch = launch
        self._warm: subprocess.Popen | None = None

    def __enter__(self) -> "Starter":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def follow(self, words: list[str], log: Path, look: Callable[[], None]) -> int:
        """Runs a command of `launch.command` with its output in `log`, calling look() now and then; its exit code.

        The command ends with this process, whatever ends it.
        """
        if self._launch.world > 1 or not hasattr(os, "fork"):
            return follow(words, log, look)
        if self._warm is None or self._warm.poll() is not None:
            self._warm = _start("serve", self._launch.module, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        arguments = words[words.index(self._launch.module) + 1 :]
        order = json.dumps({"log": str(log), "arguments": arguments}) + "\n"
        log.touch()
        try:
            self._warm.stdin.write(order.encode())
            self._warm.stdin.flush()
        except BrokenPipeError:
            return self._warm.wait() or 1
        while True:
            look()
            if select.select([self._warm.stdout], [], [], POLL)[0]:
                answer = self._warm.stdout.readline()
                return int(answer) if answer else self._warm.wait() or 1

    def _end(self) -> None:
        if self._warm is not None:
            self._warm.terminate()
            self._warm.communicate()
            self._warm = None


def _start(*words: str, **streams) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(CHILD), str(os.getpid()), *words], **streams)


def follow(words: list[str], log: Path, look: Callable[[], None]) -> int:
    """As `Starter.follow`, for any command."""
    with log.open("wb") as out:
        child = _start("run", *words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
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
