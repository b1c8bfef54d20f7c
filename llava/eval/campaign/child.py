"""Processes that end when the one that asked for them ends, even by kill -9.

A file of its own that imports nothing of the project, so that it starts at once:

`python child.py PARENT_PID run COMMAND…` runs a command.

`python child.py PARENT_PID serve MODULE` starts a module many times for the price of one start: it reads from standard
input one JSON line a start, {"log": path, "arguments": [...]}, does `python -m MODULE arguments...` in a fork of
itself with its output in the log, and answers with the exit code on a line. What is slow to import is imported once,
before the forks; they share nothing else.

Linux only: elsewhere the command simply runs.
"""

import ctypes
import importlib
import json
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1
# slow to import; none of them starts threads or touches a GPU
FIRST = {
    "lmms_eval": (
        "lmms_eval.evaluator",
        "lmms_eval.loggers",
        "lmms_eval.tasks",
        "lmms_eval.models.simple.llava_onevision",
    ),
}


def end_with(parent: int) -> None:
    """From now on this process ends when the process `parent`, which started it, ends."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def serve(module: str) -> None:
    """Answers until standard input ends; returns in every fork as well, once the module has run."""
    for name in FIRST.get(module, ()):
        importlib.import_module(name)
    server = os.getpid()
    while line := sys.stdin.readline():
        order = json.loads(line)
        fork = os.fork()
        if fork == 0:
            end_with(server)
            _redirect(order["log"])
            sys.argv = [module, *order["arguments"]]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            return
        _, status = os.waitpid(fork, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _redirect(log: str) -> None:
    """Standard output and error go into the log, and there is nothing to read."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    way, command = sys.argv[2], sys.argv[3:]
    if way == "run":
        os.execv(command[0], command)
    sys.path[0] = os.getcwd()  # as for `python -m`
    serve(command[0])
