"""The console script; `python -m aot_cli` is the same."""

import os
import signal
import sys

# before anything else is imported: Ctrl-C ends the command without a traceback, also while modules are loaded
signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def script() -> None:
    """Runs the command line and leaves with its exit code."""
    from aot_cli.main import main

    sys.exit(main())


if __name__ == "__main__":
    script()
