"""A table as a picture: what is kept against what is lost, or bars where all settings keep the same."""

import re
import sys
from pathlib import Path

from llava.eval.campaign.render import title
from llava.eval.campaign.tables import Row, Table

_SHARE = re.compile(r",?\s*[\d.]+ ?%$")


def plot(table: Table, path: Path) -> bool:
    """Writes the picture as PNG; False when no setting has a relative value to show yet, or matplotlib is missing."""
    rows = [row for row in table.rows if row.relative is not None and row.setting.aot is not None]
    if not rows:
        return False
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: pictures need matplotlib (`pip install matplotlib`).", file=sys.stderr)
        return False
    lines = _lines(rows)
    several = any(len(line) > 1 for line in lines.values())
    figure = Figure(figsize=(7.5, 4.5 if several else 1.5 + 0.35 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if several:
        _curves(axes, lines)
    else:
        _bars(axes, rows)
    axes.set_title(title(table), fontsize=9, wrap=True)
    figure.savefig(path, dpi=120)
    return True


def _lines(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by the name that is left of a setting without its share of tokens."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row.tokens is not None:
            lines.setdefault(_SHARE.sub("", row.setting.name), []).append(row)
    return {name: sorted(line, key=lambda row: row.tokens) for name, line in lines.items()}


def _curves(axes, lines: dict[str, list[Row]]) -> None:
    for name, line in lines.items():
        middle = [row.relative for row in line]
        drawn = axes.errorbar(
            [row.tokens for row in line], middle, yerr=_errors(line), marker="o", capsize=2, label=name
        )
        told = [(row.tokens, row.published["relative"]) for row in line if (row.published or {}).get("relative")]
        if told:
            color = drawn.lines[0].get_color()
            axes.plot(*zip(*told, strict=True), linestyle=":", marker="o", markerfacecolor="none", color=color)
    axes.axhline(100, color="grey", linewidth=0.8)
    axes.set_xlabel("visual tokens kept, %")
    axes.set_ylabel("accuracy, % of all tokens (hollow: published)", fontsize=8)
    axes.legend(fontsize=7, ncols=2)


def _bars(axes, rows: list[Row]) -> None:
    places = list(range(len(rows)))[::-1]
    axes.barh(places, [row.relative for row in rows], xerr=_errors(rows), height=0.6, capsize=2)
    for place, row in zip(places, rows, strict=True):
        if (row.published or {}).get("relative"):
            axes.plot(row.published["relative"], place, marker="o", markerfacecolor="none", color="black")
    axes.set_yticks(places, [row.setting.name for row in rows], fontsize=8)
    axes.axvline(100, color="grey", linewidth=0.8)
    axes.set_xlabel("accuracy, % of all tokens (hollow: published)")


def _errors(rows: list[Row]) -> list[list[float]]:
    """Lengths below and above; a percentile interval need not hold the middle, a length is never negative."""
    below = [_length(row.relative, row.relative_interval and row.relative_interval.low) for row in rows]
    above = [_length(row.relative_interval and row.relative_interval.high, row.relative) for row in rows]
    return [below, above]


def _length(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None or high != high or low != low else max(0.0, high - low)
