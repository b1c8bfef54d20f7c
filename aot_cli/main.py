"""Runs a command line."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aot_cli.commands import COMMANDS
from aot_cli.parser import meant
from aot_cli.renamed import renamed
from aot_cli.tree import make_parser


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code, 2 for a wrong command and 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = make_parser()
    if not words or words == ["help"]:
        parser.print_help()
        return 0
    words = renamed(words)
    if not words[0].startswith("-") and words[0] not in COMMANDS:
        print(f"aot: there is no command {words[0]!r}{meant(words[0], COMMANDS)}; see aot --help.", file=sys.stderr)
        return 2
    options = parser.parse_args(words)
    with _keyboard_interrupts():
        try:
            return options.execute(options)
        except KeyboardInterrupt:
            return 130


def entry(name: str) -> Callable[[list[str] | None], int]:
    """The `main` of a module that is also started as `python -m MODULE`: it runs the command of this name."""

    def run(arguments: list[str] | None = None) -> int:
        return main([name, *(sys.argv[1:] if arguments is None else arguments)])

    return run


@contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C is a KeyboardInterrupt, so that answers can be stopped and child processes are ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
