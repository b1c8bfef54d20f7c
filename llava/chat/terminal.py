"""Reading from and writing to the terminal, or a pipe, where no colour and no progress bar appears."""

import sys
import textwrap
import threading

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

PATIENCE = 2.0  # seconds after which a progress bar appears


class Terminal:
    """Answers go to standard output, everything about their making to standard error."""

    def __init__(self):
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without → or · shows ?
        self.out = Console(soft_wrap=True, highlight=False)
        self.err = Console(soft_wrap=True, highlight=False, stderr=True)
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._prompt = None

    def read(self, commands: list[str]) -> str | None:
        """The next line, or None at the end; Tab completes commands."""
        if self.interactive and self._prompt is None:
            from prompt_toolkit import PromptSession  # a fifth of a second that a single question does not need
            from prompt_toolkit.completion import WordCompleter

            completer = WordCompleter(commands, sentence=True)
            self._prompt = PromptSession(completer=completer, complete_while_typing=False)
        try:
            return self._prompt.prompt("> ") if self._prompt else input()
        except EOFError:
            return None

    def write(self, text: str, *, end: str = "\n", style: str | None = None) -> None:
        """Text as it is: square brackets are no markup."""
        self.out.print(text, end=end, style=style, markup=False)

    def facts(self, parts: list[str]) -> None:
        """Short facts on one line; on a terminal too narrow for it, on lines that end between two of them."""
        line = " · ".join(part.replace(" ", "\xa0") for part in parts)
        if self.out.is_terminal:
            line = "\n".join(textwrap.wrap(line, self.out.width))
        self.write(line.replace("\xa0", " "), style="dim")

    def note(self, text: str) -> None:
        """A line about what happens, for people; not part of an answer."""
        self.err.print(text, style="dim", markup=False, soft_wrap=not self.err.is_terminal)

    def error(self, text: str) -> None:
        """One sentence on standard error."""
        self.err.print(" ".join(text.split()), style="red", markup=False, soft_wrap=not self.err.is_terminal)

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """A table on standard output."""
        table = Table(*columns)
        for row in rows:
            table.add_row(*row)
        self.out.print(table, soft_wrap=False)

    def waiting(self, label: str) -> "Waiting":
        """A progress bar for a block that may take long; see Waiting."""
        return Waiting(label, self.err)


class Waiting:
    """A context that shows a bar on a terminal once it has lasted two seconds; call it to report progress."""

    def __init__(self, label: str, console: Console):
        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        self.bar = Progress(*columns, console=console, transient=True)
        self.task = self.bar.add_task(label, total=None)
        self.timer = threading.Timer(PATIENCE, self.bar.start) if console.is_terminal else None

    def __enter__(self) -> "Waiting":
        if self.timer:
            self.timer.daemon = True
            self.timer.start()
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Reports progress; total 0 when unknown."""
        self.bar.update(self.task, description=stage, completed=done, total=total or None)

    def stop(self) -> None:
        """Takes the bar away, or sees to it that it never comes."""
        if self.timer:
            self.timer.cancel()
            self.timer.join()
            self.timer = None
            self.bar.stop()

    def __exit__(self, *error) -> None:
        self.stop()
