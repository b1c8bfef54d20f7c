"""How options are read, described and refused."""

import argparse
import difflib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with what was probably meant, instead of printing the usage."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **{"formatter_class": Help, **named})

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse(unknown[0])
        return options

    def refuse(self, word: str) -> NoReturn:
        """Ends with exit code 2 over an argument that has no place."""
        option = word.partition("=")[0]
        if option.startswith("-"):
            self.error(f"there is no option {option}{meant(option, self._option_string_actions)}")
        self.error(f"{word!r} is one argument too many")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help.\n")


class Help(argparse.RawDescriptionHelpFormatter):
    """Options in one column and their meanings in another, as wide as the terminal and at most 100 characters."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=27, width=min(shutil.get_terminal_size().columns, 100) - 1)


def meant(word: str, known: Iterable[str]) -> str:
    """ "; did you mean …?" for a known word that looks like this one, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class TextError(argparse.ArgumentTypeError, ValueError):
    """A text that is no share of the tokens, or no setting; argparse tells it as it is."""


def cache_folder(text: str) -> Path:
    """The folder of a cache: as named, or for "auto" the user's own, $XDG_CACHE_HOME/aot or ~/.cache/aot."""
    if text != "auto":
        return Path(text)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "aot"


def gigabytes(text: str) -> float:
    """A size above 0."""
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError("use more than 0")
    return number


def add_cache_options(add: Callable) -> None:
    """Those of every command that keeps encoded videos. add: `add_argument` of a parser or group."""
    add("--cache", type=cache_folder, metavar="DIR", help="keep encoded videos there; auto: ~/.cache/aot")
    add("--cache-gb", type=gigabytes, default=10.0, metavar="GB", help=argparse.SUPPRESS)  # most of all of them


def frame_count(text: str) -> int | str:
    """A number of frames, or "auto"."""
    return text if text == "auto" else int(text)


def share(text: str) -> float:
    """A share of the tokens: 0.1 and 10% are the same. Whether it is in range is for AOTConfig to say."""
    number = text.strip()
    try:
        return float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError as error:
        raise TextError(f"use a share such as 0.1 or 10%, not {text!r}") from error


def pair(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON where it is JSON, such as a number, true or null, and as a word otherwise."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise TextError(f"use NAME=VALUE, such as clips=dynamic, not {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
