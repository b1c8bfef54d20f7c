"""Time and memory against frames and retention from results of bench_e2e, with the fitted exponent of each curve.

    python -m benchmarks.plot_growth RESULT.json [--output docs/images/growth_e2e.svg]

Log-log points joined by lines; the exponent is the slope of least squares and says how a quantity grows: 1 is in
proportion. Against frames: tower, method, prefill, first token and, on a GPU, peak memory, a line a shape and setting.
Against retention: the settings of AOT at the number of frames that most of them were measured at. Prints the exponents
as JSON.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

Points = list[tuple[float, float]]
FIELDS = {"tower_ms": "tower, ms", "method_ms": "method, ms", "prefill_ms": "prefill, ms"}
FIELDS |= {"first_token_ms": "first token, ms", "peak_mib": "peak memory above the weights, MiB"}
FIELDS |= {"ms": "process ms", "above_mib": "peak MiB"}


def curves(rows: list[dict], along: str, name: Callable[[dict], str]) -> dict[tuple[str, str], dict[str, Points]]:
    """By (what grows, field) the points of each name that was measured at several places."""
    panels = {}
    for field in FIELDS:
        lines: dict[str, Points] = {}
        for row in rows:
            if row.get(field, 0) > 0:
                lines.setdefault(name(row), []).append((row[along], row[field]))
        if lines:
            panels[along, field] = {name: points for name, points in lines.items() if len(dict(points)) > 1}
    return panels


def draw(panels: dict[tuple[str, str], dict[str, Points]], title: str, output: Path) -> dict[str, float]:
    """Writes a picture of the lines of each (what grows, field), a row of panels a growth; returns the exponents."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    growths = len({along for along, _ in panels})
    columns = len(panels) // growths
    figure = Figure(figsize=(4.5 * columns, 4 * growths), layout="constrained")
    axes = figure.subplots(growths, columns, squeeze=False)
    exponents = {}
    for axis, ((along, field), lines) in zip(axes.flat, panels.items(), strict=True):
        axis.set(xlabel=along, title=FIELDS[field])
        for name, points in lines.items():
            xs, ys = zip(*sorted(points), strict=True)
            exponents[f"{name}: {field} against {along}"] = fit = round(np.polyfit(np.log(xs), np.log(ys), 1)[0], 2)
            axis.plot(xs, ys, marker="o", label=f"{name}: {fit:.2f}")
        if lines:
            xs, ys = np.array([point for points in lines.values() for point in points]).T
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(np.unique(xs), [f"{x:g}" for x in np.unique(xs)])
            axis.minorticks_off()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            # a decade at least, so that noise does not look like growth
            middle, half = np.sqrt(ys.min() * ys.max()), max(1.3 * np.sqrt(ys.max() / ys.min()), np.sqrt(10))
            axis.set_ylim(middle / half, middle * half)
            axis.legend(fontsize=7, title="exponent", title_fontsize=7)
    figure.suptitle(title)
    with matplotlib.rc_context({"svg.hashsalt": "aot"}):  # the same picture from the same figures
        figure.savefig(output, metadata={"Date": None})
    return exponents


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images/growth_e2e.svg"))
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    result = result.get("e2e") or result  # what run_gpu.sh leaves holds it as a part
    rows = [row for row in result["rows"] if "tower_ms" in row]
    panels = curves(rows, "frames", lambda row: f"{row['shape']}, {row['setting']}")
    # AOT against retention, of each shape at the number of frames that most were measured at
    shares = [re.fullmatch(r"aot (\d+) %", row["setting"]) for row in rows]
    kept = [row | {"retention": int(share[1]) / 100} for row, share in zip(rows, shares, strict=True) if share]
    frames: dict[str, Counter] = {}
    for row in kept:
        frames.setdefault(row["shape"], Counter())[row["frames"]] += 1
    kept = [row for row in kept if row["frames"] == frames[row["shape"]].most_common(1)[0][0]]
    panels |= curves(kept, "retention", lambda row: f"{row['shape']}, {row['frames']} frames")
    try:
        exponents = draw(panels, result["device"], options.output)
    except ModuleNotFoundError:
        sys.exit("The plot needs matplotlib; install the extra `visualize`.")
    print(json.dumps(exponents, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
