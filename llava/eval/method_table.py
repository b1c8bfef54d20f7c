"""Every method at every retention and the ablations, in one command: `python -m llava.eval.method_table`.

Runs what is missing (see `llava.eval.evaluate`), prints what cannot run and why, and writes the sections "exam",
"methods" and "ablations" of docs/results.md with CSV files and a plot. What was measured is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import aot
from aot.methods.in_llm import IN_LLM
from aot_cli.main import entry
from aot_cli.parser import Parser, share
from llava.eval.evaluate import CAPTIONED, DEFAULT_SETTINGS, exam_arguments, run
from llava.eval.exam.settings import OWN_COUNTS, parse_setting
from llava.eval.markdown import write_section
from llava.eval.tables.exam_page import (
    ABLATIONS,
    ablation_section,
    ablations_csv,
    exam_section,
    methods_csv,
    methods_section,
)
from llava.eval.tables.exam_report import identity
from llava.eval.tables.exam_results import chosen, ranking, read_runs
from llava.eval.tables.plots import accuracy_plot

PARTS = ("methods", "ablations", "inside")  # inside the language model: every prompt by itself, so the slowest
LEFT_OUT = "left-out.txt"
RETENTIONS = (0.1, 0.05, 0.25, 0.15, 0.2)  # in the order in which they are run


def method_settings(retentions: Sequence[float]) -> list[str]:
    """Every registered method that acts before the language model, and every preset with counts of its own."""
    methods = [name for name in aot.method_names() if name not in IN_LLM]
    return [f"{method}@{retention:g}" for retention in retentions for method in (*methods, *OWN_COUNTS)]


def inside_settings(retentions: Sequence[float]) -> list[str]:
    """Methods inside the language model: with this layer average, and with this share behind the last drop."""
    return [
        f"{method}@{retention:g}{changes}"
        for retention in retentions
        for method in IN_LLM
        for changes in ("", ',options={"counts":"last"}')
    ]


def complete(retentions: Sequence[float], known: set[str]) -> list[float]:
    """The retentions at which every method was asked or refused: only there can be said who is first."""
    return [r for r in retentions if known.issuperset(method_settings([r]))]


def ablation_settings(retention: float) -> list[str]:
    """The settings of the declared ablations, each once."""
    return list(dict.fromkeys(a.setting(retention) for a in ABLATIONS))


def runnable(settings: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Settings that are valid, and the reasons of the others."""
    good, refused = [], {}
    for name in settings:
        try:
            parse_setting(name)
            good.append(name)
        except ValueError as error:
            refused[name] = str(error)
    return good, refused


def measure(settings: Sequence[str], args: argparse.Namespace) -> None:
    """Sits the exam under the settings that are not there yet; prints and notes down what cannot run."""
    good, refused = runnable(settings)
    refused |= run(
        good,
        model_path=args.model_path,
        output=args.output,
        questions=args.questions,
        seed=args.seed,
        captioned=args.captioned,
    )
    for name, reason in refused.items():
        print(f"{name} was left out: {reason}", file=sys.stderr)
    known = {name: reason for name, reason in left_out(args.output).items() if name not in good} | refused
    args.output.joinpath(LEFT_OUT).write_text(
        "".join(f"{name}\t{' '.join(reason.split())}\n" for name, reason in known.items())
    )


def left_out(folder: Path) -> dict[str, str]:
    """Reasons of the settings that could not run, noted down by `measure`."""
    path = folder / LEFT_OUT
    return dict(line.split("\t", 1) for line in path.read_text().splitlines()) if path.exists() else {}


def write(
    folder: Path, page: Path, wanted: dict, *, retentions: Sequence[float] = RETENTIONS, ablations_at: float = 0.1
) -> None:
    """The sections of the page, the plot and the CSV files, from what is in a folder.

    wanted: as in `read_runs`. retentions: the shares to rank at, where every method was asked.
    """
    runs, refused = read_runs(folder, **wanted), left_out(folder)
    write_section(page, "exam", exam_section(chosen(runs, DEFAULT_SETTINGS)))
    asked = complete(retentions, {*runs, *refused})
    methods = [*method_settings(asked), *inside_settings(asked)]
    rows = ranking(runs, [name for name in methods if name in runs])
    if rows:
        missing = {name: reason for name, reason in refused.items() if name in methods}
        write_section(page, "methods", methods_section(rows, runs, missing))
        page.with_name("results-methods.csv").write_text(methods_csv(rows, runs))
        accuracy_plot(rows, runs, page.parent / "images" / "methods.png")
    if any(name in runs for name in ablation_settings(ablations_at)):
        write_section(page, "ablations", ablation_section(runs, ablations_at, refused))
        page.with_name("results-ablations.csv").write_text(ablations_csv(runs, ablations_at))


def add_options(parser: Parser) -> None:
    exam_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure; default all of it")
    parser.add_argument("--retentions", type=share, nargs="+", default=RETENTIONS, metavar="R", help="shares to ask at")
    parser.add_argument("--ablations-at", type=share, default=0.1, metavar="R", help="retention of the ablations")
    parser.add_argument("--report", action="store_true", help="write from what is there; measure nothing")
    parser.add_argument("--captioned", type=int, default=CAPTIONED, help="clips whose captions are scored")
    parser.add_argument("--output", type=Path, default=Path("runs/exam"), help="folder of replies and clips")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"), help="where the sections go")


def execute(args: argparse.Namespace) -> int:
    """Measures what is missing and writes the page."""
    settings = {
        "methods": method_settings(args.retentions),
        "ablations": ablation_settings(args.ablations_at),
        "inside": inside_settings(args.retentions),
    }
    if not args.report:
        measure(list(dict.fromkeys(["full", "blank", *(s for part in args.only for s in settings[part])])), args)
    write(args.output, args.page, identity(args), retentions=args.retentions, ablations_at=args.ablations_at)
    return 0


main = entry("methods")

if __name__ == "__main__":
    sys.exit(main())
