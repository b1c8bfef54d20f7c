"""`aot completion SHELL`: what the shell needs to complete commands and options."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell", metavar="SHELL", choices=("bash", "zsh", "fish", "tcsh"), help="bash, zsh, fish or tcsh"
    )


def execute(options: argparse.Namespace) -> int:
    """Prints the script of one shell for the whole tree; loads every command once to know its options."""
    import shtab

    from aot_cli.main import make_parser

    parser = make_parser()
    for subcommand in parser.subcommands:
        subcommand.load()
    print(shtab.complete(parser, shell=options.shell))
    return 0
