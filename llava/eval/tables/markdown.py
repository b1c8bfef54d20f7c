"""Pieces of pages: tables as Markdown and CSV, numbers, and sections that scripts replace one by one."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from llava.eval.jsonl import write_whole
from llava.eval.statistics import Interval

DASH = "–"
TITLE = "# Results on the embedded model"
NOTE = "Written by scripts, section by section; do not edit by hand."


def number(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A number, or a dash for none."""
    if value is None or value != value:
        return DASH
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(value: Interval | None, sign: bool = False) -> str:
    """Two ends, or a dash."""
    if value is None or value.low != value.low:
        return DASH
    return f"{number(value.low, sign=sign)} … {number(value.high, sign=sign)}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column left-aligned."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [head, rule, *rows])


def csv_table(head: Sequence[str], rows: Iterable[Sequence]) -> str:
    """The same as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return out.getvalue()


def write_section(page: Path, name: str, text: str) -> None:
    """Replaces a section of a page, or adds it at the end; the other sections stay as they are."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    whole = page.read_text() if page.exists() else f"{TITLE}\n\n{NOTE}\n"
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in whole:
        before, rest = whole.split(begin, 1)
        whole = before + section + rest.split(end, 1)[1]
    else:
        whole = f"{whole.rstrip()}\n\n{section}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, whole.encode())
