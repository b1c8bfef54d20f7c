"""What a result of run_gpu.sh says of each aim for a GPU, as a table: the figure, the aim, met or missed.

    python -m benchmarks.verdict RESULT.json

An aim whose rows are missing or wrong says so. The exit status is 1 unless all aims are met. With --rehearsal only what
holds on a CPU as well is looked at: that every step left its part and no result is wrong.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SHAPE, FRAMES = "7b", 32


class Missing(Exception):
    """A figure was not measured, or its result was wrong."""


@dataclass
class Aim:
    """figure(result) -> number, which is to be at least (or, most=True, at most) `aim`."""

    what: str
    aim: float
    figure: Callable[[dict], float]
    most: bool = False
    unit: str = ""

    def line(self, result: dict) -> tuple[bool, str]:
        """(met, row of the table)."""
        sign = "≤" if self.most else "≥"
        try:
            value = self.figure(result)
        except Missing as reason:
            return False, f"| {self.what} | {reason} | {sign} {self.aim:g}{self.unit} | missing |"
        met = value <= self.aim if self.most else value >= self.aim
        verdict = "met" if met else "missed"
        return met, f"| {self.what} | {value:.3g}{self.unit} | {sign} {self.aim:g}{self.unit} | {verdict} |"


def part(result: dict, name: str) -> dict:
    """A part of the result; Missing when it was not measured."""
    if not result.get(name):
        raise Missing(f"{name} was not measured")
    return result[name]


def took(result: dict, setting: str, stage: str) -> float:
    """Milliseconds of a stage of a setting, published shape and number of frames."""
    for row in part(result, "e2e")["rows"]:
        if (row["shape"], row["frames"], row["setting"]) == (SHAPE, FRAMES, setting):
            if f"{stage}_ms" in row:
                return row[f"{stage}_ms"]
            raise Missing(f"{setting}: {row.get('wrong') or row.get('left_out')}")
    raise Missing(f"{setting} was not measured")


def received(result: dict) -> float:
    """Percent that the received attention adds to the tower."""
    for row in part(result, "e2e")["attention"]:
        if row["shape"] == SHAPE:
            if "ratio" in row:
                return 100 * (row["ratio"] - 1)
            raise Missing(row["wrong"])
    raise Missing("not measured")


def error(result: dict) -> float:
    """Largest error of a kernel on bfloat16 over that of plain bfloat16 PyTorch."""
    rows = [row for row in part(result, "ops")["rows"] if row["backend"] == "triton" and "plain_error" in row]
    if not rows:
        raise Missing("no kernel was measured on bfloat16")
    return max(row["error"] / row["plain_error"] for row in rows)


def wrong(result: dict) -> float:
    """Rows with a wrong result, in all parts."""
    ops, e2e = part(result, "ops"), part(result, "e2e")
    return sum("wrong" in row for row in (*ops["rows"], *ops["method"], *e2e["rows"], *e2e["attention"]))


def failed(result: dict) -> float:
    """Kernel tests that failed; Missing when none ran."""
    words = (result.get("kernel_tests") or "").replace(",", "").split()
    if "passed" not in words:
        raise Missing(result.get("kernel_tests") or "they did not run")
    return sum(int(words[words.index(name) - 1]) for name in ("failed", "error", "errors") if name in words)


def quotient(over: tuple[str, str], under: tuple[str, str], *, scale: float = 1.0) -> Callable[[dict], float]:
    """Figure: one (setting, stage) over another."""
    return lambda result: scale * took(result, *over) / took(result, *under)


def absent(result: dict) -> float:
    """Parts that a step did not leave."""
    return sum(not result.get(name) for name in ("ops", "e2e", "tower_modes"))


OURS, PLAIN = ("aot 10 %", "method"), ("released plain", "method")
FIRST = ("aot 10 %", "first_token")
RAN = (
    Aim("steps that left nothing", 0, absent, most=True),
    Aim("kernel tests that failed", 0, failed, most=True),
    Aim("rows with a wrong result", 0, wrong, most=True),
)
AIMS = (
    *RAN,
    Aim("method, share of the tower's time", 3, quotient(OURS, ("aot 10 %", "tower"), scale=100), most=True, unit=" %"),
    Aim("method", 1, lambda result: took(result, *OURS), most=True, unit=" ms"),
    Aim("straightforward version over ours", 50, quotient(PLAIN, OURS), unit="×"),
    Aim("received attention, added to the tower", 5, received, most=True, unit=" %"),
    Aim("first token, uncompressed with eager attention over ours", 2.5,
        quotient(("uncompressed eager", "first_token"), FIRST), unit="×"),
    Aim("first token, uncompressed with fused attention over ours", 2,
        quotient(("uncompressed", "first_token"), FIRST), unit="×"),
    Aim("error of a bfloat16 kernel over plain bfloat16", 2, error, most=True, unit="×"),
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
    lines = [aim.line(result) for aim in (RAN if options.rehearsal else AIMS)]
    device = (result.get("e2e") or result.get("ops") or {}).get("device", "no device")
    what = "rehearsal" if options.rehearsal else f"{SHAPE} shapes, {FRAMES} frames"
    print(f"{what}, {device}\n\n| what | measured | aim | |\n|---|---:|---:|---|")
    print("\n".join(line for _, line in lines))
    return int(not all(met for met, _ in lines))


if __name__ == "__main__":
    sys.exit(main())
