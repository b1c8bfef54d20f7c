"""Pieces of the results page: tables, numbers, and sections that scripts replace one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

TITLE = "# Results on the embedded model"
NOTE = "Written by scripts, section by section; do not edit by hand."
LABELS = {"full": "all tokens", "blank": "all tokens, video blanked"}


def label(setting: str) -> str:
    """A setting as the tables print it."""
    if setting in LABELS:
        return LABELS[setting]
    head, _, fields = setting.partition(",")
    method, _, retention = head.partition("@")
    return f"{method} {100 * float(retention):g} %" + (f", {fields}" if fields else "")


def percent(values: np.ndarray) -> str:
    """Mean of scores in per cent; a dash for none."""
    return f"{100 * values.mean():.1f}" if len(values) else "–"


def between(low: float, high: float) -> str:
    """An interval in points."""
    return f"{low:+.1f} … {high:+.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column left-aligned."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


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
    part = page.with_name(page.name + ".part")
    part.write_text(whole)
    part.replace(page)
