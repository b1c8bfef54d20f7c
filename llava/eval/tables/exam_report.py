"""Writes the exam's section of docs/results.md from the replies that `llava.eval.evaluate` left behind."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aot_cli.main import entry
from aot_cli.parser import Parser
from aot_tiny.shapes.questions import FAMILIES
from llava.eval.evaluate import DEFAULT_SETTINGS, exam_arguments, fingerprint
from llava.eval.exam.items import guess_rate, make_exam
from llava.eval.exam.settings import parse_setting
from llava.eval.markdown import markdown_table, write_section
from llava.eval.records import read_records
from llava.eval.tables.standing import between, interval, label, percent, scores

FORM_TITLES = {
    "open": "Open answers, by family",
    "choice": "Multiple choice, by family",
    "likelihood": "Multiple choice by likelihood, by family",
}


def read_runs(folder: Path, **wanted) -> dict[str, dict]:
    """What `evaluate` left in a folder, by setting.

    wanted: fields of the header that must be so; runs of other checkpoints or exams are passed over. SystemExit when
    no full run is among the rest or when they are of several checkpoints or exams.
    """
    found = []
    for path in sorted(folder.glob("*/result.json")):
        run = json.loads(path.read_text())
        if wanted.items() <= run["header"].items():
            found.append({**run, "questions": read_records(path.with_name("questions.jsonl"))})
    runs = {run["header"]["setting"]: run for run in found}
    if "full" not in runs:
        raise SystemExit(f"{folder} holds no such replies under 'full'; run python -m llava.eval.evaluate first")
    if len({tuple(run["header"][key] for key in ("weights", "questions", "seed")) for run in found}) > 1:
        raise SystemExit(f"{folder} mixes checkpoints or exams; keep one folder for each")
    return runs


def report(runs: dict[str, dict]) -> str:
    """The section, from setting name to what `evaluate` wrote; "full" must be among them."""
    whole = runs["full"]["questions"]
    items = make_exam(runs["full"]["header"]["questions"], seed=runs["full"]["header"]["seed"])
    parts = ["## The exam", describe(runs), _summary(runs, whole)]
    guesses = guess_rate(items)
    for form, title in FORM_TITLES.items():
        rows = [
            [label(name), *(percent(scores(run["questions"], form=form, family=f)) for f in FAMILIES)]
            for name, run in runs.items()
        ]
        if form == "open":
            rows.append(
                ["best guess without looking", *(f"{100 * guesses[f]:.1f}" if f in guesses else "–" for f in FAMILIES)]
            )
        else:
            rows.append(["chance", *["25.0"] * len(FAMILIES)])
        parts += [f"### {title}", markdown_table(["tokens", *FAMILIES], rows)]
    return "\n\n".join(parts)


def describe(runs: dict[str, dict]) -> str:
    """Model, exam and measures in words."""
    head = runs["full"]["header"]
    items = make_exam(head["questions"], seed=head["seed"])
    counts = Counter(item.question.family for item in items).values()
    return (
        f"Written by `python -m llava.eval.tables.exam_report`. Model: checkpoints/aot-tiny (weights SHA-256 "
        f"{head['weights'][:12]}…), greedy, torch {head['torch']}. Exam: {len(items)} questions on "
        f"{len({i.clip for i in items})} held-out clips, decoded from MP4, {min(counts)} to {max(counts)} a family; "
        "each is asked openly and as multiple choice. Per cent right; *relative* is to all tokens; *difference* is its "
        "95 % interval in points (paired bootstrap over clips). *Multiple choice* counts the letter that the model "
        "writes, *by likelihood* the option that it finds the likeliest open answer. Captions are scored by the F1 of "
        "the facts they state."
    )


def _summary(runs: dict[str, dict], whole: list[dict]) -> str:
    overall = scores(whole).mean()
    rows = []
    for name, run in runs.items():
        records = run["questions"]
        points = scores(records)
        forms = [percent(scores(records, form=f)) for f in ("open", "choice", "likelihood", "caption")]
        difference = "" if name == "full" else between(*interval(records, whole))
        relative = f"{100 * points.mean() / overall:.1f}" if overall else "–"
        rows.append([label(name), percent(points), relative, difference, *forms])
    head = ["tokens", "both forms", "relative", "difference", "open", "multiple choice", "by likelihood", "captions"]
    return markdown_table(head, rows)


def add_options(parser: Parser) -> None:
    exam_arguments(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs/exam"), help="folder of the replies")
    parser.add_argument("--settings", nargs="+", default=DEFAULT_SETTINGS, help="those to report, where they are there")
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"), help="where the section goes")


def execute(args: argparse.Namespace) -> int:
    """Writes the section."""
    runs = read_runs(args.runs, **identity(args))
    write_section(args.output, "exam", report(chosen(runs, [parse_setting(name).name for name in args.settings])))
    return 0


def identity(args: argparse.Namespace) -> dict:
    """Header fields that tell the exam and the checkpoint of `exam_arguments` from others."""
    return {"weights": fingerprint(args.model_path), "questions": args.questions, "seed": args.seed}


def chosen(runs: dict[str, dict], settings: Sequence[str]) -> dict[str, dict]:
    """The full run and those of these settings that are there, in this order."""
    return {name: runs[name] for name in dict.fromkeys(["full", *settings]) if name in runs}


main = entry("exam-report")

if __name__ == "__main__":
    sys.exit(main())
