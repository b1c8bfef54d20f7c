"""What a result of run_gpu.sh says of each target for a GPU, as a table: the figure, the target, met or missed.

    python -m benchmarks.check_targets RESULT.json

A target whose rows are missing or wrong says so. The exit status is 1 unless all are met. With --rehearsal only what
holds on a CPU as well is looked at: that every step left its part and no result is wrong.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SHAPE, FRAMES = "7b", 32


class NotMeasured(Exception):
    """A figure was not measured, or its result was wrong."""


class Target(NamedTuple):
    """figure(result) -> number, which is to be at most `bound`, or, where sign is "≥", at least."""

    what: str
    figure: Callable[[dict], float]
    sign: str
    bound: float
    unit: str = ""

    def check(self, result: dict) -> tuple[bool, str]:
        """(met, row of the table)."""
        bound = f"{self.sign} {self.bound:g}{self.unit}"
        try:
            value = self.figure(result)
        except NotMeasured as reason:
            return False, f"| {self.what} | {reason} | {bound} | missing |"
        met = value <= self.bound if self.sign == "≤" else value >= self.bound
        return met, f"| {self.what} | {value:.3g}{self.unit} | {bound} | {'met' if met else 'missed'} |"


def part(result: dict, name: str) -> dict:
    """A part of the result; NotMeasured when it is not there."""
    if not result.get(name):
        raise NotMeasured(f"{name} was not measured")
    return result[name]


def end_to_end(result: dict, rows: str, figure: str, **row) -> float:
    """A figure of the row of bench_e2e for the published shape, and for a setting at the published frames."""
    wanted = {"shape": SHAPE, **row}
    name = row.get("setting", rows)
    found = next((found for found in part(result, "e2e")[rows] if wanted.items() <= found.items()), None)
    if found is None:
        raise NotMeasured(f"{name} was not measured")
    if figure not in found:
        raise NotMeasured(f"{name}: {found.get('wrong') or found.get('left_out')}")
    return found[figure]


def milliseconds(setting: str, stage: str) -> Callable[[dict], float]:
    return lambda result: end_to_end(result, "rows", f"{stage}_ms", setting=setting, frames=FRAMES)


def quotient(over: Callable, under: Callable, *, scale: float = 1.0) -> Callable[[dict], float]:
    return lambda result: scale * over(result) / under(result)


def added_by_attention(result: dict) -> float:
    """Percent that the received attention adds to the tower."""
    return 100 * (end_to_end(result, "attention", "ratio") - 1)


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


METHOD, FIRST = milliseconds("aot 10 %", "method"), milliseconds("aot 10 %", "first_token")
REHEARSED = (
    Target("steps that left nothing", absent_parts, "≤", 0),
    Target("kernel tests that failed", failed_tests, "≤", 0),
    Target("rows with a wrong result", wrong_rows, "≤", 0),
)
TARGETS = (
    *REHEARSED,
    Target("method, share of the tower's time",
           quotient(METHOD, milliseconds("aot 10 %", "tower"), scale=100), "≤", 3, " %"),
    Target("method", METHOD, "≤", 1, " ms"),
    Target("straightforward version over ours",
           quotient(milliseconds("released plain", "method"), METHOD), "≥", 50, "×"),
    Target("received attention, added to the tower", added_by_attention, "≤", 5, " %"),
    Target("first token, uncompressed with eager attention over ours",
           quotient(milliseconds("uncompressed eager", "first_token"), FIRST), "≥", 2.5, "×"),
    Target("first token, uncompressed with fused attention over ours",
           quotient(milliseconds("uncompressed", "first_token"), FIRST), "≥", 2, "×"),
    Target("error of a bfloat16 kernel over plain bfloat16", kernel_error, "≤", 2, "×"),
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
    rows = [target.check(result) for target in (REHEARSED if options.rehearsal else TARGETS)]
    device = (result.get("e2e") or result.get("ops") or {}).get("device", "no device")
    what = "rehearsal" if options.rehearsal else f"{SHAPE} shapes, {FRAMES} frames"
    print(f"{what}, {device}\n\n| what | measured | target | |\n|---|---:|---:|---|")
    print("\n".join(line for _, line in rows))
    return int(not all(met for met, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
