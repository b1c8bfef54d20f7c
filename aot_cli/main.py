"""The tree of commands as one argparse parser, and running a command line."""

import argparse
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import NoReturn

from aot_cli.commands import COMMANDS, EXAMPLES, GROUPS, Command
from aot_cli.output import OutputLost, exit_code, guard
from aot_cli.parser import Parser, meant
from aot_cli.renamed import renamed

SHOWN = ("torch", "transformers")  # beside our own version, for reports of defects


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code.

    2 for a wrong command, 130 after Ctrl-C, 143 after SIGTERM, 141 when nobody reads on, 1 when what it prints is lost.
    """
    try:
        guard()
        try:
            return _run(sys.argv[1:] if arguments is None else list(arguments))
        finally:
            sys.stdout.flush()
    except OutputLost as lost:
        return exit_code(lost)


def _run(words: list[str]) -> int:
    parser = make_parser()
    if not words or words == ["help"]:
        parser.print_help()
        return 0
    words = renamed(words)
    if not words[0].startswith("-") and words[0] not in COMMANDS:
        print(f"aot: there is no command {words[0]!r}{meant(words[0], COMMANDS)}; see aot --help.", file=sys.stderr)
        return 2
    options = parser.parse_args(words)
    # as exceptions, so that answers can be stopped and child processes are ended
    with handling({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _terminate}):
        try:
            return options.execute(options)
        except KeyboardInterrupt:
            print(f"aot {options.command}: stopped.", file=sys.stderr)
            return 130
        except Terminated:
            print(f"aot {options.command}: ended by SIGTERM.", file=sys.stderr)
            return 143
        except OSError as error:  # of a file or folder that a command writes and has no sentence of its own for
            named = f"{error.filename} cannot be used ({error.strerror}); give another path, or make room."
            print(f"aot {options.command}: {named if error.filename else error}", file=sys.stderr)
            return 1


def entry(name: str) -> Callable[[list[str] | None], int]:
    """The `main` of a module that is also started as `python -m MODULE`: it runs the command of this name."""

    def run(arguments: list[str] | None = None) -> int:
        return main([name, *(sys.argv[1:] if arguments is None else arguments)])

    return run


class Terminated(BaseException):
    """SIGTERM came; what is half done is cleared away."""


@contextmanager
def handling(handlers: Mapping[signal.Signals, Callable | signal.Handlers]) -> Iterator[None]:
    """Inside, these signals are handled so; outside of the main thread none can be."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one waits for nothing
    raise Terminated


def make_parser() -> "_Tree":
    """The parser of `aot`; the options of a command are added when the command is used."""
    parser = _Tree(prog="aot", description="Video language models on a tenth of their visual tokens.")
    parser.add_argument("--version", action=_Version, nargs=0, help="versions of aot and of what it runs on")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Subcommand)
    parser.subcommands = [
        subparsers.add_parser(name, command=command, help=command.help, description=f"{command.help}.")
        for name, command in COMMANDS.items()
    ]
    return parser


class _Tree(Parser):
    subcommands: list["_Subcommand"]

    def format_help(self) -> str:
        """The commands by group, on one screen."""
        lines = ["usage: aot COMMAND [options]", "", self.description]
        for group, commands in GROUPS.items():
            lines += ["", f"{group}:", *(f"  {name:<12} {command.help}" for name, command in commands.items())]
        return "\n".join([*lines, "", "examples:", *(f"  {example}" for example in EXAMPLES), ""])


class _Subcommand(Parser):
    """A command whose module is loaded with its first use."""

    def __init__(self, *, command: Command, **named):
        examples = "\n".join(["examples:", *(f"  {example}" for example in command.examples)])
        super().__init__(**named, epilog=examples, allow_abbrev=not command.passes_on)
        self.command, self.module = command, None

    def load(self) -> None:
        """Adds the options."""
        if self.module is not None:
            return
        from llava.utils import gc_disabled

        with gc_disabled(freeze=True):
            self.module = import_module(self.command.module)
        self.module.add_options(self)
        self._positionals.title = "arguments"
        places = [f"[{a.metavar}]" if a.nargs == "?" else a.metavar for a in self._get_positional_actions()]
        self.usage = " ".join(["%(prog)s", *places, "[options]"])

    def parse_known_args(self, args=None, namespace=None):
        self.load()
        options, unknown = super().parse_known_args(args, namespace)
        if unknown and not self.command.passes_on:
            self.refuse(unknown[0])
        options.execute, options.rest, options.words = self.module.execute, unknown, args
        return options, []


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        """Prints one line and leaves; metadata alone is read, nothing is imported."""
        others = ", ".join(f"{name} {_version(name)}" for name in SHOWN)
        print(f"aot {_version('aot-video')} (Python {platform.python_version()}, {others})")
        parser.exit()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
