"""Accuracy against the share of tokens kept, drawn for readers who do not tell colours apart."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from llava.eval.tables.method_report import OURS, title
from llava.eval.tables.standing import Standing, overall

# Okabe and Ito's palette without its black, which is ours; markers and dashes tell the lines apart without colour
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#999999")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">")
DASHES = ((0, ()), (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1, 1, 1)))


def accuracy_plot(rows: Sequence[Standing], runs: dict[str, dict], path: Path) -> None:
    """Writes a PNG: a line a method over the share really kept; runs gives "full" and, when there, "blank".

    Without matplotlib it says so in a sentence and writes nothing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: pictures need matplotlib (`pip install matplotlib`).", file=sys.stderr)
        return
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, text in (("full", "all tokens"), ("blank", "video blanked")):
        if key in runs:
            axes.axhline(overall(runs[key]), color="0.4", lw=0.8)
            axes.annotate(text, (0.01, overall(runs[key])), xycoords=("axes fraction", "data"), va="bottom", size=8)
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
