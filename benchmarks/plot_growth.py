"""Time against frames from results of bench_e2e, with the fitted exponent of each curve.

    python -m benchmarks.plot_growth RESULT.json [--output docs/growth.svg]

A line a setting and stage (tower, method, prefill) through log-log points; the exponent is the slope of least squares
and says how the time grows: 1 is in proportion to frames. Prints the exponents as JSON.
"""

import argparse
import json
import math
import sys
from pathlib import Path

STAGES = ("tower", "method", "prefill")


def slope(xs: list[float], ys: list[float]) -> float:
    """Least-squares slope of log y over log x."""
    xs, ys = [math.log(x) for x in xs], [math.log(y) for y in ys]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def curves(rows: list[dict], stage: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(frames, milliseconds) of every shape and setting that was measured at several numbers of frames."""
    found: dict = {}
    for row in rows:
        if row.get(f"{stage}_ms", 0) > 0:
            found.setdefault((row["shape"], row["setting"]), []).append((row["frames"], row[f"{stage}_ms"]))
    return {name: sorted(points) for name, points in found.items() if len({x for x, _ in points}) > 1}


def main() -> int:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "aot"
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/growth.svg"))
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    result = result.get("e2e") or result  # what run_gpu.sh leaves holds it as a part
    figure, axes = plt.subplots(1, len(STAGES), figsize=(13, 4), layout="constrained")
    exponents = {}
    for stage, axis in zip(STAGES, axes, strict=True):
        for (shape, setting), points in curves(result["rows"], stage).items():
            exponent = slope(*zip(*points, strict=True))
            exponents[f"{shape}, {setting}, {stage}"] = round(exponent, 2)
            axis.plot(*zip(*points, strict=True), marker="o", label=f"{shape}, {setting}: {exponent:.2f}")
        axis.set(xscale="log", yscale="log", xlabel="frames", title=f"{stage}, ms ({result['device']})")
        axis.legend(fontsize=7, title="exponent", title_fontsize=7)
    figure.savefig(options.output, metadata={"Date": None})
    print(json.dumps(exponents, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
