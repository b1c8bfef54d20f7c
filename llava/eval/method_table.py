"""Every method at every retention and the ablations, in one command: `python -m llava.eval.method_table`.

Runs what is missing (see `llava.eval.evaluate`), prints what cannot run and why, and writes the sections "methods" and
"ablations" of docs/results.md with their CSV files and the plot. What was measured is never measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import aot
from aot.baselines.in_llm import IN_LLM
from llava.eval.ablation_report import ablation_section, ablations_csv
from llava.eval.ablations import ABLATIONS
from llava.eval.evaluate import CAPTIONED, exam_arguments, run
from llava.eval.exam_report import read_runs
from llava.eval.method_report import methods_csv, methods_section
from llava.eval.page import write_section
from llava.eval.plots import accuracy_plot
from llava.eval.settings import OWN_COUNTS, parse_setting
from llava.eval.standing import standings

RETENTIONS = (0.25, 0.2, 0.15, 0.1, 0.05)


def method_settings(retentions: Sequence[float]) -> list[str]:
    """Every registered method and preset with counts of its own.

    Methods inside the language model come twice: with this layer average, and with this share behind the last drop.
    """
    plain = [f"{method}@{{}}" for method in (*aot.method_names(), *OWN_COUNTS)]
    inside = [method + '@{},options={{"counts":"last"}}' for method in IN_LLM]
    return [name.format(f"{retention:g}") for retention in retentions for name in (*plain, *inside)]


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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    exam_arguments(parser)
    parser.add_argument("--retentions", type=float, nargs="+", default=RETENTIONS)
    parser.add_argument("--ablations-at", type=float, default=0.1, help="retention of the ablations")
    parser.add_argument("--only", choices=("methods", "ablations"), help="one of the two tables")
    parser.add_argument("--report", action="store_true", help="write from what is there; run nothing")
    parser.add_argument("--captioned", type=int, default=CAPTIONED, help="clips whose captions are scored")
    parser.add_argument("--output", type=Path, default=Path("runs/exam"), help="folder of replies and clips")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    args = parser.parse_args(arguments)
    methods = [] if args.only == "ablations" else method_settings(args.retentions)
    ablations = [] if args.only == "methods" else ablation_settings(args.ablations_at)
    good, refused = runnable(list(dict.fromkeys(["full", "blank", *methods, *ablations])))
    left_out = args.output / "left-out.txt"
    if args.report:
        refused = dict(line.split("\t", 1) for line in left_out.read_text().splitlines())
    else:
        refused |= run(
            good,
            model_path=args.model_path,
            output=args.output,
            questions=args.questions,
            seed=args.seed,
            captioned=args.captioned,
        )
        left_out.write_text("".join(f"{name}\t{' '.join(reason.split())}\n" for name, reason in refused.items()))
    for name, reason in refused.items():
        print(f"{name} was left out: {reason}", file=sys.stderr)
    runs = read_runs(args.output)
    if methods:
        rows = standings(runs, [name for name in methods if name in runs])
        picture = args.page.parent / "images" / "methods.png"
        accuracy_plot(rows, runs, picture)
        write_section(args.page, "methods", methods_section(rows, runs, refused))
        args.page.with_name("results-methods.csv").write_text(methods_csv(rows, runs))
    if ablations:
        write_section(args.page, "ablations", ablation_section(runs, args.ablations_at, refused))
        args.page.with_name("results-ablations.csv").write_text(ablations_csv(runs, args.ablations_at))


if __name__ == "__main__":
    main()
