"""Time and memory against frames and retention from results of bench_e2e, with the fitted exponent of each curve.

    python -m benchmarks.plot_growth RESULT.json [--output docs/images/growth_e2e.svg]

Log-log points joined by lines; the exponent is the slope of least squares and says how a quantity grows: 1 is in
proportion. Against frames: tower, method, prefill, first token and, on a GPU, peak memory, a line a shape and setting.
Against retention: the settings of AOT at the number of frames that most of them were measured at. Prints the exponents
as JSON.
"""

import argparse
import json
import math
import re
import sys
from collections import Counter
from pathlib import Path

FIELDS = {"tower_ms": "tower, ms", "method_ms": "method, ms", "prefill_ms": "prefill, ms"}
FIELDS |= {"first_token_ms": "first token, ms", "peak_mib": "peak memory above the weights, MiB"}


def slope(xs: list[float], ys: list[float]) -> float:
    """Least-squares slope of log y over log x."""
    xs, ys = [math.log(x) for x in xs], [math.log(y) for y in ys]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def log_axes(axis, xs: list[float], ys: list[float]) -> None:
    """Logarithmic axes, marked at what was measured; a decade at least, so that noise does not look like growth."""
    from matplotlib.ticker import LogLocator

    axis.set(xscale="log", yscale="log")
    axis.set_xticks(sorted(set(xs)), [f"{x:g}" for x in sorted(set(xs))])
    axis.minorticks_off()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    middle, half = math.sqrt(min(ys) * max(ys)), max(math.sqrt(max(ys) / min(ys)) * 1.3, math.sqrt(10))
    axis.set_ylim(middle / half, middle * half)


def retention(row: dict) -> float | None:
    """Share of the tokens that a setting such as "aot 10 %" keeps; None for others."""
    found = re.fullmatch(r"aot (\d+) %", row["setting"])
    return int(found.group(1)) / 100 if found else None


def against_frames(rows: list[dict], field: str) -> dict[str, list[tuple[float, float]]]:
    """(frames, value) of every shape and setting that was measured at several numbers of frames."""
    found: dict = {}
    for row in rows:
        if row.get(field, 0) > 0:
            found.setdefault(f"{row['shape']}, {row['setting']}", []).append((row["frames"], row[field]))
    return _lines(found)


def against_retention(rows: list[dict], field: str) -> dict[str, list[tuple[float, float]]]:
    """(retention, value) of every shape, at the number of frames that most retentions were measured at."""
    rows = [row for row in rows if row.get(field, 0) > 0 and retention(row)]
    found: dict = {}
    for shape in dict.fromkeys(row["shape"] for row in rows):
        frames = Counter(row["frames"] for row in rows if row["shape"] == shape).most_common(1)[0][0]
        points = [(retention(row), row[field]) for row in rows if (row["shape"], row["frames"]) == (shape, frames)]
        found[f"{shape}, {frames} frames"] = points
    return _lines(found)


def _lines(found: dict) -> dict:
    return {name: sorted(points) for name, points in found.items() if len({x for x, _ in points}) > 1}


def main() -> int:
    try:
        import matplotlib
    except ModuleNotFoundError:
        sys.exit("The plot needs matplotlib; install the extra `visualize`.")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "aot"
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images/growth_e2e.svg"))
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    result = result.get("e2e") or result  # what run_gpu.sh leaves holds it as a part
    fields = [field for field in FIELDS if any(row.get(field, 0) > 0 for row in result["rows"])]
    figure, panels = plt.subplots(2, len(fields), figsize=(4.5 * len(fields), 8), layout="constrained", squeeze=False)
    exponents = {}
    for line, along, curves in zip(panels, ("frames", "retention"), (against_frames, against_retention), strict=True):
        for axis, field in zip(line, fields, strict=True):
            found = curves(result["rows"], field)
            for name, points in found.items():
                exponent = slope(*zip(*points, strict=True))
                exponents[f"{name}: {field} against {along}"] = round(exponent, 2)
                axis.plot(*zip(*points, strict=True), marker="o", label=f"{name}: {exponent:.2f}")
            axis.set(xlabel=along, title=FIELDS[field])
            if found:
                log_axes(axis, *zip(*(point for points in found.values() for point in points), strict=True))
                axis.legend(fontsize=7, title="exponent", title_fontsize=7)
    figure.suptitle(result["device"])
    figure.savefig(options.output, metadata={"Date": None})
    print(json.dumps(exponents, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
