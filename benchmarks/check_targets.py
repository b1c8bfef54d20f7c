"""What a result of run_gpu.sh says of each target for a GPU, as a table: the figure, the target, met or missed.

    python -m benchmarks.check_targets RESULT.json

A target whose rows are missing or wrong says so. The exit status is 1 unless all are met. With --rehearsal only what
holds on a CPU as well is looked at: that every step left its part and no result is wrong.
"""

import argparse
import json
import sys
from pathlib import Path

SHAPE, FRAMES = "7b", 32


class NotMeasured(Exception):
    """A figure was not measured, or its result was wrong."""


def part(result: dict, name: str) -> dict:
    """A part of the result; NotMeasured when it is not there."""
    if not result.get(name):
        raise NotMeasured(f"{name} was not measured")
    return result[name]


def figure(rows: list[dict], name: str, what: str, **wanted) -> float:
    """A figure of the first of bench_e2e's rows of the published shape that has what is wanted."""
    wanted["shape"] = SHAPE
    found = next((row for row in rows if wanted.items() <= row.items()), None)
    if found is None:
        raise NotMeasured(f"{what} was not measured")
    if name not in found:
        raise NotMeasured(f"{what}: {found.get('wrong') or found.get('left_out')}")
    return found[name]


def ms(result: dict, setting: str, stage: str) -> float:
    return figure(part(result, "e2e")["rows"], f"{stage}_ms", setting, setting=setting, frames=FRAMES)


def added_by_attention(result: dict) -> float:
    """Percent that the received attention adds to the tower."""
    return 100 * (figure(part(result, "e2e")["attention"], "ratio", "attention") - 1)


def kernel_error(result: dict) -> float:
    """Largest error of a kernel on bfloat16 over that of plain bfloat16 PyTorch."""
    rows = [row for row in part(result, "ops")["rows"] if row["backend"] == "triton" and "plain_error" in row]
    if not rows:
        raise NotMeasured("no kernel was measured on bfloat16")
    return max(row["error"] / row["plain_error"] for row in rows)


def wrong_rows(result: dict) -> float:
    ops, e2e = part(result, "ops"), part(result, "e2e")
    return sum("wrong" in row for row in (*ops["rows"], *ops["method"], *e2e["rows"], *e2e["attention"]))


def failed_tests(result: dict) -> float:
    """By the last line of pytest; NotMeasured when none ran."""
    words = (result.get("kernel_tests") or "").replace(",", "").split()
    if "passed" not in words:
        raise NotMeasured(result.get("kernel_tests") or "they did not run")
    return sum(int(words[words.index(name) - 1]) for name in ("failed", "error", "errors") if name in words)


def absent_parts(result: dict) -> float:
    return sum(not result.get(name) for name in ("ops", "e2e", "tower_modes"))


# what, figure of the result, whether it is to be at most (≤) or at least (≥) the bound, the bound, its unit
REHEARSED = (
    ("steps that left nothing", absent_parts, "≤", 0, ""),
    ("kernel tests that failed", failed_tests, "≤", 0, ""),
    ("rows with a wrong result", wrong_rows, "≤", 0, ""),
)
TARGETS = (
    *REHEARSED,
    ("method, share of the tower's time",
     lambda r: 100 * ms(r, "aot 10 %", "method") / ms(r, "aot 10 %", "tower"), "≤", 3, " %"),
    ("method", lambda r: ms(r, "aot 10 %", "method"), "≤", 1, " ms"),
    ("straightforward version over ours",
     lambda r: ms(r, "released plain", "method") / ms(r, "aot 10 %", "method"), "≥", 50, "×"),
    ("received attention, added to the tower", added_by_attention, "≤", 5, " %"),
    ("first token, uncompressed with eager attention over ours",
     lambda r: ms(r, "uncompressed eager", "first_token") / ms(r, "aot 10 %", "first_token"), "≥", 2.5, "×"),
    ("first token, uncompressed with fused attention over ours",
     lambda r: ms(r, "uncompressed", "first_token") / ms(r, "aot 10 %", "first_token"), "≥", 2, "×"),
    ("error of a bfloat16 kernel over plain bfloat16", kernel_error, "≤", 2, "×"),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--rehearsal", action="store_true")
    options = parser.parse_args()
    try:
        result = json.loads(options.result.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{options.result} is no result of run_gpu.sh ({type(error).__name__}); give the file that it wrote.")
    device = (result.get("e2e") or result.get("ops") or {}).get("device", "no device")
    what = "rehearsal" if options.rehearsal else f"{SHAPE} shapes, {FRAMES} frames"
    print(f"{what}, {device}\n\n| what | measured | target | |\n|---|---:|---:|---|")
    all_met = True
    for name, measure, sign, limit, unit in REHEARSED if options.rehearsal else TARGETS:
        try:
            value = measure(result)
            met = value <= limit if sign == "≤" else value >= limit
            measured, verdict = f"{value:.3g}{unit}", "met" if met else "missed"
        except NotMeasured as reason:
            met, measured, verdict = False, reason, "missing"
        print(f"| {name} | {measured} | {sign} {limit:g}{unit} | {verdict} |")
        all_met &= met
    return int(not all_met)


if __name__ == "__main__":
    sys.exit(main())
