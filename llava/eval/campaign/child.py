"""Runs a command that ends when the process that asked for it ends, even by kill -9.

`python child.py PARENT_PID COMMAND…`; a file of its own that imports nothing of the project, so that it starts at
once. Linux only: elsewhere the command simply runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the process that started this one is gone")
    os.execv(command[0], command)
