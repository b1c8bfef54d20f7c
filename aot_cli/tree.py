"""The tree of commands as one argparse parser."""

import argparse
import platform
from importlib import import_module, metadata

from aot_cli.commands import COMMANDS, EXAMPLES, Command
from aot_cli.parser import Parser

SHOWN = ("torch", "transformers")  # beside our own version, for reports of defects


def make_parser() -> "_Tree":
    """The parser of `aot`; the options of a command are added when the command is used."""
    parser = _Tree(prog="aot", description="Video language models on a tenth of their visual tokens.")
    parser.add_argument("--version", action=_Version, nargs=0, help="versions of aot and of what it runs on")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Subcommand)
    parser.subcommands = [
        subparsers.add_parser(name, command=command, help=command.help, description=command.description)
        for name, command in COMMANDS.items()
    ]
    return parser


class _Tree(Parser):
    subcommands: list["_Subcommand"]

    def load_all(self) -> None:
        """Adds the options of every command, which takes seconds."""
        for subcommand in self.subcommands:
            subcommand.load()

    def format_help(self) -> str:
        """The commands by group, on one screen."""
        lines = ["usage: aot COMMAND [options]", "", self.description]
        group = None
        for name, command in COMMANDS.items():
            if command.group != group:
                group = command.group
                lines += ["", f"{group}:"]
            lines.append(f"  {name:<12} {command.help}")
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
