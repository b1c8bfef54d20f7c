"""Writes the exam's section of docs/results.md from the replies that `llava.eval.evaluate` left behind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.eval.evaluate import DEFAULT_SETTINGS, exam_arguments, weights_hash
from llava.eval.exam.settings import parse_setting
from llava.eval.markdown import write_section
from llava.eval.tables.exam_page import exam_section
from llava.eval.tables.exam_results import chosen, read_runs


def add_options(parser: Parser) -> None:
    exam_arguments(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs/exam"), help="folder of the replies")
    parser.add_argument("--settings", nargs="+", default=DEFAULT_SETTINGS, help="those to report, where they are there")
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"), help="where the section goes")


def execute(args: argparse.Namespace) -> int:
    """Writes the section."""
    runs = read_runs(args.runs, **identity(args))
    write_section(args.output, "exam", exam_section(chosen(runs, [parse_setting(name).name for name in args.settings])))
    return 0


def identity(args: argparse.Namespace) -> dict:
    """Header fields that tell the exam and the checkpoint of `exam_arguments` from others."""
    return {"weights": weights_hash(args.model_path), "questions": args.questions, "seed": args.seed}


main = entry("exam-report")

if __name__ == "__main__":
    sys.exit(main())
