"""The figures as a page: tables with intervals over clips, where the default stands, and a plot."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.footage.measures import interval
from benchmarks.footage.sources import HELD_OUT
from llava.eval.tables.markdown import markdown_table, write_section

MEASURES = {
    "wasserstein": "Wasserstein distance",
    "nearest": "1 − cos to the nearest kept token",
    "rebuilding": "variance not rebuilt from 8 kept tokens",
}
OURS = "aot"
RELEASED = "released preset"


class Figures:
    """The figures by measure: values (clips,) float64 of a method at a retention ("" for the released preset)."""

    def __init__(self, rows: Sequence[dict[str, str]]):
        self.rows = rows
        self.clips = list(dict.fromkeys(row["clip"] for row in self.rows))
        self.methods = list(dict.fromkeys(row["method"] for row in self.rows if row["method"] != RELEASED))
        self.retentions = list(dict.fromkeys(row["retention"] for row in self.rows if row["retention"]))

    def values(self, measure: str, method: str, retention: str) -> torch.Tensor:
        """One value a clip, in the order of `clips`."""
        wanted = {"method": method, "retention": retention}.items()
        found = {row["clip"]: float(row[measure]) for row in self.rows if wanted <= row.items()}
        return torch.tensor([found[clip] for clip in self.clips], dtype=torch.float64)

    def mean(self, measure: str, method: str, retention: str) -> float:
        return float(self.values(measure, method, retention).mean())

    def ranking(self, measure: str, retention: str) -> list[str]:
        """The methods, the best first."""
        return sorted(self.methods, key=lambda method: self.mean(measure, method, retention))


def percent(retention: str) -> str:
    return f"{float(retention) * 100:g} %"


def table(figures: Figures, measure: str) -> str:
    """Markdown: methods by retention, mean [low, high]; the best mean of a column is bold."""
    columns = figures.retentions
    best = [figures.mean(measure, figures.ranking(measure, r)[0], r) for r in columns]
    rows = []
    for method in figures.ranking(measure, "0.1"):
        values = [figures.values(measure, method, r) for r in columns]
        rows.append([method, *(cell(v, bold=float(v.mean()) == least) for v, least in zip(values, best, strict=True))])
    return markdown_table(["method", *map(percent, columns)], rows)


def released(figures: Figures) -> str:
    """Markdown: the released preset's real shares and figures, and the default's between its retentions there."""
    shares = figures.values("share", RELEASED, "")
    lines = [f"| | tokens kept | {' | '.join(MEASURES.values())} |", "| --- | ---: | ---: | ---: | ---: |"]
    text = f"{shares.mean():.1%} ({shares.min():.1%} to {shares.max():.1%})".replace("%", " %")
    there = {measure: figures.values(measure, RELEASED, "") for measure in MEASURES}
    ours = {measure: between(figures, measure, shares) for measure in MEASURES}
    for name, values in ((RELEASED, there), ("aot at each clip's same share, straight between its retentions", ours)):
        lines.append(f"| {name} | {text} | {' | '.join(cell(values[measure]) for measure in MEASURES)} |")
    return "\n".join(lines)


def between(figures: Figures, measure: str, shares: torch.Tensor) -> torch.Tensor:
    """The default's values (clips,) at shares (clips,), linear between the shares that were measured."""
    names = sorted(figures.retentions, key=float)
    known = torch.stack([figures.values("share", OURS, name) for name in names])
    values = torch.stack([figures.values(measure, OURS, name) for name in names])
    columns = zip(shares, known.T, values.T, strict=True)
    return torch.tensor([np.interp(share, at, value) for share, at, value in columns], dtype=torch.float64)


def cell(values: torch.Tensor, sign: str = "", *, bold: bool = False) -> str:
    """Mean [low, high] of one value a clip."""
    mean, low, high = interval(values)
    strong = "**" * bold
    return f"{strong}{mean:{sign}.3f}{strong} [{low:{sign}.3f}, {high:{sign}.3f}]"


def standing(figures: Figures) -> str:
    """Markdown: rank of the default at each retention, and paired differences to the best other and to random."""
    lines = ["| measure | retention | rank of aot | best other | aot − best other | aot − random |"]
    lines += ["| --- | ---: | ---: | --- | ---: | ---: |"]
    for measure, title in MEASURES.items():
        for retention in figures.retentions:
            order = figures.ranking(measure, retention)
            other = next(m for m in order if m != OURS)
            ours = figures.values(measure, OURS, retention)
            texts = [cell(ours - figures.values(measure, m, retention), "+") for m in (other, "random")]
            rank = f"{order.index(OURS) + 1} of {len(order)}"
            lines.append(f"| {title} | {percent(retention)} | {rank} | {other} | {' | '.join(texts)} |")
    return "\n".join(lines)


def verdict(figures: Figures) -> str:
    """A sentence a measure, which follows from the figures: where the default is first."""
    places = []
    for measure, title in MEASURES.items():
        ranks = [figures.ranking(measure, retention).index(OURS) + 1 for retention in figures.retentions]
        first = [percent(r) for r, rank in zip(figures.retentions, ranks, strict=True) if rank == 1]
        span = f"{min(ranks)}" if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"
        where = f"first at {', '.join(first)}" if first else "nowhere first"
        places.append(f"By the measure “{title}” AOT's default is {where} (ranks {span} of {len(figures.methods)}).")
    return "\n".join(places)


def plot(figures: Figures, target: Path) -> None:
    """One panel a measure: mean by retention, the released preset as a point at its real share."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5))
    axes, shades = figure.subplots(1, 3), colormaps["tab20"]
    shares = [float(r) * 100 for r in figures.retentions]
    for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        for number, method in enumerate(figures.methods):
            means = [figures.mean(measure, method, r) for r in figures.retentions]
            ours = method == OURS
            look = {"color": "black", "linewidth": 3} if ours else {"color": shades(number), "linewidth": 1.2}
            axis.plot(shares, means, label=method, marker="o", markersize=3, **look)
        share = 100 * figures.mean("share", RELEASED, "")
        axis.plot(share, figures.mean(measure, RELEASED, ""), "r*", markersize=12, label=RELEASED)
        axis.set_title(title)
        axis.set_xlabel("tokens kept, %")
        axis.set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="center right", frameon=False)
    figure.tight_layout(rect=(0, 0, 0.88, 1))
    figure.savefig(target, dpi=80)


def section(title: str, figures: Figures) -> list[str]:
    """Parts of the page about some of the clips."""
    parts = [f"## {title}", verdict(figures), f"Clips: {', '.join(figures.clips)}."]
    for measure, name in MEASURES.items():
        parts += [f"### {name[0].upper()}{name[1:]}", table(figures, measure)]
    return [*parts, "### Where the default stands", standing(figures)]


def write(source: Path, page: Path, image: Path) -> None:
    """Puts tables between the page's markers, and the plot beside it."""
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    held_out, others = ([row for row in rows if (row["clip"] in HELD_OUT) == held] for held in (True, False))
    parts = section("Clips that nothing was chosen on", Figures(held_out))
    parts += section("Clips that settings were chosen on", Figures(others))
    parts += ["## The released preset, all clips", released(Figures(rows))]
    write_section(page, "footage", "\n\n".join(parts))
    plot(Figures(rows), image)
