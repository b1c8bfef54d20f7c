"""Accuracy against the share of tokens kept, of the exam and of sweeps, as PNG."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from llava.eval.tables.benchmark_page import title as table_title
from llava.eval.tables.benchmarks import Row, Table
from llava.eval.tables.exam import Ranked, mean_score
from llava.eval.tables.exam_page import OURS, title

# for readers who do not tell colours apart: Okabe and Ito's palette without its black, which is ours;
# markers and dashes tell the lines apart without colour
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#999999")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">")
_SHARE = re.compile(r",?\s*[\d.]+ ?%$")
DASHES = ((0, ()), (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1, 1, 1)))


def accuracy_plot(rows: Sequence[Ranked], runs: dict[str, dict], path: Path) -> None:
    """Writes a PNG: a line a method over the share really kept; runs gives "full" and, when there, "blank".

    Without matplotlib it says so in a sentence and writes nothing.
    """
    made = _figure(path, (9, 5.5))
    if made is None:
        return
    figure, axes = made
    for key, text in (("full", "all tokens"), ("blank", "video blanked")):
        if key in runs:
            right = mean_score(runs[key]["questions"])
            axes.axhline(right, color="0.4", lw=0.8)
            axes.annotate(text, (0.01, right), xycoords=("axes fraction", "data"), va="bottom", size=8)
    least = min(row.setting.retention for row in rows)
    order = sorted((r for r in rows if r.setting.retention == least), key=lambda r: -r.overall)
    methods = dict.fromkeys([r.setting.method for r in order] + [r.setting.method for r in rows])
    colors, markers = cycle(COLORS), cycle(MARKERS)
    for number, method in enumerate(methods):
        mine = [r for r in rows if r.setting.method == method]
        kept = [100 * r.setting.retention if r.kept is None else r.kept for r in mine]
        ours = method == OURS
        style = {"color": "black", "marker": "*", "ms": 11, "lw": 2.5, "zorder": 3} if ours else {
            "color": next(colors), "marker": next(markers), "ms": 5, "lw": 1.2,
            "linestyle": DASHES[number // len(COLORS) % len(DASHES)],
        }  # fmt: skip
        axes.plot(kept, [r.overall for r in mine], label=title(mine[0]), **style)
    axes.set(xlabel="visual tokens kept, %", ylabel="right, % (open answers and letters)", xscale="log")
    ticks = sorted({round(100 * r.setting.retention, 6) for r in rows})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def table_plot(table: Table, path: Path) -> bool:
    """Writes the picture as PNG; False when no setting has a relative value to show yet, or matplotlib is missing."""
    rows = [row for row in table.rows if row.relative is not None and row.setting.aot is not None]
    if not rows:
        return False
    lines: dict[str, list[Row]] = {}  # by the name that is left of a setting without its share of tokens
    for row in rows:
        if row.tokens is not None:
            lines.setdefault(_SHARE.sub("", row.setting.name), []).append(row)
    for line in lines.values():
        line.sort(key=lambda row: row.tokens)
    several = any(len(line) > 1 for line in lines.values())
    made = _figure(path, (7.5, 4.5 if several else 1.5 + 0.35 * len(rows)))
    if made is None:
        return False
    figure, axes = made
    if several:
        _curves(axes, lines)
    else:
        _bars(axes, rows)
    axes.set_title(table_title(table), fontsize=9, wrap=True)
    figure.savefig(path, dpi=120)
    return True


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


def _errors(rows: list[Row]) -> np.ndarray:
    """(2, n) lengths below and above; a percentile interval need not hold the middle, a length is never negative."""
    ends = np.array([(r.relative - r.relative_interval.low, r.relative_interval.high - r.relative) for r in rows])
    return np.nan_to_num(ends.clip(0)).T


def _figure(path: Path, size: tuple[float, float]):
    """(figure, axes) to draw on; None, after a sentence, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: pictures need matplotlib (`pip install matplotlib`).", file=sys.stderr)
        return None
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()
