"""Standard output that takes no more ends a command in one sentence, whatever the command was about."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class OutputLost(BaseException):
    """What standard output was to take is lost; no command takes this for an error of its own."""


class Output(io.TextIOWrapper):
    """Standard output whose errors are `OutputLost`."""

    def write(self, text: str) -> int:
        with _lost():
            return super().write(text)

    def flush(self) -> None:
        with _lost():
            super().flush()


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputLost from error


def guard() -> None:
    """Puts `Output` in the place of sys.stdout, and something in the place of other streams that are closed."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - as above
    plain = sys.stdout
    if plain is None:
        raise OutputLost from OSError("it is closed")
    if type(plain) is io.TextIOWrapper:
        form = {"encoding": plain.encoding, "errors": plain.errors}
        sys.stdout = Output(
            plain.buffer, **form, line_buffering=plain.line_buffering, write_through=plain.write_through
        )


def exit_code(lost: OutputLost) -> int:
    """141 for a reader that has enough, such as head; otherwise 1, after a sentence."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the rest goes when Python ends
    error = lost.__cause__
    if isinstance(error, BrokenPipeError):
        return 141
    reason = getattr(error, "strerror", None) or error
    print(f"aot: standard output cannot be written ({reason}); make room, or send it elsewhere.", file=sys.stderr)
    return 1
