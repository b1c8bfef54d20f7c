"""`aot eval`: runs what a sweep still lacks, over benchmarks through lmms-eval or over the embedded model's exam.

A sweep is a YAML file, or one model on tasks as the options say it. What is there already is not made again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aot_cli.main import entry
from aot_cli.parser import Parser, share
from llava.chat.options import json_or_word
from llava.eval.embedded import embedded_checkpoint, stand_in
from llava.eval.exam.settings import PARTS, ExamSweep
from llava.eval.jsonl import LineError
from llava.eval.progress import SweepProgress
from llava.eval.provenance import checkpoint_folder
from llava.eval.report import LEFT_OUT, left_out, write_benchmarks, write_exam
from llava.eval.runner import LAUNCHERS, Launch, Summary, add_launch_options, launch_of, run_sweep
from llava.eval.sweep import Sweep, SweepError, known_sweeps, load_sweep, sweep_from
from llava.eval.tables.benchmarks import load_tables
from llava.utils import shipped


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("sweep", nargs="?", metavar="SWEEP", help=f"a YAML file, or one of: {known_sweeps()}")
    add("--limit", type=int, metavar="N", help="questions a task, to try things out")
    settings = "of a sweep, only those with this in the name; of the exam, those to sit it under"
    add("--settings", nargs="+", action="extend", metavar="TEXT", help=settings)
    add("--embedded", action="store_true", help="on the embedded model, whatever there is")
    add("--or-embedded", action="store_true", help="on the embedded model where its own models cannot run")
    add("--pages", type=Path, metavar="DIR", help="write the tables here at the end")
    add("--report", action="store_true", help="run nothing; write the tables of what is there")
    one = parser.add_argument_group("one model, instead of SWEEP").add_argument
    one("--name", help="of the folder of results, and in the table")
    one("--model", help="lmms-eval's id of the wrapper")
    one("--model-path", metavar="CHECKPOINT", help="folder or hub name; of the exam too")
    one("--tasks", nargs="+", metavar="TASK", help="tasks or groups of lmms-eval or lmms_eval_tasks")
    one("--retention", nargs="*", type=share, metavar="R", help="shares of tokens; of the exam's methods too")
    one("--method", default="aot", help="what chooses the tokens (default aot)")
    one("--preset", action="append", default=[], metavar="NAME[,FIELD=VALUE...]", help="a preset, such as released")
    one("--set", action="append", default=[], metavar="FIELD=VALUE", help="further settings at every retention")
    one("--args", action="append", default=[], metavar="NAME=VALUE", help="further --model_args of the wrapper")
    exam = parser.add_argument_group("the exam").add_argument
    exam("--questions", type=int, metavar="N", help="how many (default 1040)")
    exam("--seed", type=int, metavar="N", help="its first clip")
    exam("--captioned", type=int, metavar="N", help="clips whose captions are scored")
    exam("--only", nargs="+", choices=PARTS, metavar="PART", help="what to measure")
    exam("--ablations-at", type=share, metavar="R", help="retention of the ablations")
    exam("--page", type=Path, metavar="FILE", help="write its sections here at the end")
    where = parser.add_argument_group("where it runs")
    where.add_argument("--output", type=Path, metavar="DIR", help="results (default runs/sweeps, the exam's runs/exam)")
    add_launch_options(where)
    where.add_argument("--launcher", choices=LAUNCHERS, default="torchrun", help="what starts several processes")
    where.add_argument("--device", help="cpu or cuda (default: the GPUs where there are any)")


def execute(options: argparse.Namespace) -> int:
    """Runs a sweep; 0 when every question has a reply, 1 when something failed, 2 for a wrong command."""
    try:
        sweep = load_sweep(options.sweep) if options.sweep else one_model(options)
        return run_benchmarks(sweep, options) if isinstance(sweep, Sweep) else run_exam(sweep, options)
    except (ValueError, OSError) as error:
        print(f"aot eval: {error}", file=sys.stderr)
        return 1 if isinstance(error, LineError | OSError) else 2
    except KeyboardInterrupt:
        print("aot eval: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def one_model(options: argparse.Namespace) -> Sweep:
    """The sweep that the options describe: one model with all tokens, at some retentions, under presets."""
    needed = {
        "--name": options.name, "--model": options.model, "--model-path": options.model_path, "--tasks": options.tasks,
    }  # fmt: skip
    lacking = [name for name, value in needed.items() if not value]
    if lacking:
        what = "a YAML file, one of: " + known_sweeps()
        raise SweepError(f"Name a sweep before the options ({what}), or one model; for that {lacking[0]} is missing.")
    fields = _pairs(options.set)
    settings: list[dict[str, Any]] = [{"name": "all tokens"}]
    for retention in options.retention or []:
        aot = {"method": options.method, "retention": retention, **fields}
        settings.append({"name": f"{options.method}, {100 * retention:g} %", "aot": aot})
    for text in options.preset:
        preset, *changes = text.split(",")
        settings.append({"name": text, "aot": {"preset": preset, **_pairs(changes)}})
    model = {"name": options.name, "id": options.model, "checkpoint": options.model_path, "args": _pairs(options.args)}
    return sweep_from(
        {
            "name": options.name,
            "title": options.name,
            "models": [model],
            "settings": settings,
            "tasks": options.tasks,
            "limit": options.limit,
            "include_path": str(shipped("lmms_eval_tasks")),
        }
    )


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    """From NAME=VALUE, a value as JSON where it is JSON and as a word otherwise."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise SweepError(f"{text!r} is not NAME=VALUE.")
        pairs[name] = json_or_word(value)
    return pairs


def run_benchmarks(sweep: Sweep, options: argparse.Namespace) -> int:
    """Runs what is missing through lmms-eval; says openly what is not there or failed."""
    sweep, launch = _narrowed(sweep, options), _launch(options)
    output = options.output or Path("runs/sweeps")
    summary = Summary(output / sweep.name, {}, {})
    if not options.report:
        summary = run_sweep(sweep, output, launch, SweepProgress())
    pages = options.pages or (summary.folder if options.report or not options.sweep else None)
    if pages and launch.node_rank == 0:
        name = (sweep.table or sweep.name) if options.pages else None
        for page in write_benchmarks(load_tables([summary.folder]), pages, name=name):
            print(page)
    for name, reason in summary.broken.items():
        print(f"aot eval: {name} did not complete: {reason}", file=sys.stderr)
    for name, count in summary.failed.items():
        print(f"aot eval: {name}: {count} questions failed and count as wrong", file=sys.stderr)
    if not options.report:
        state = "complete" if summary.ok else "not complete; the same command goes on from here"
        print(f"{summary.folder}: {state}")
    return 0 if summary.ok else 1


def _launch(options: argparse.Namespace) -> Launch:
    device = options.device or (None if torch.cuda.is_available() else "cpu")
    return launch_of(options, launcher=options.launcher, device=None if device == "cuda" else device)


def _narrowed(sweep: Sweep, options: argparse.Namespace) -> Sweep:
    """The settings and questions that the options ask for, on the embedded model if that is asked for; it says so."""
    texts = [text.lower() for text in options.settings or []]
    if texts:
        kept = tuple(s for s in sweep.settings if s.aot is None or any(text in s.name.lower() for text in texts))
        sweep = replace(sweep, settings=kept)
    reason = "as asked" if options.embedded else why_not(sweep) if options.or_embedded else None
    if reason is not None:
        print(f"This runs on the embedded model ({reason}).", file=sys.stderr)
        sweep = stand_in(sweep, embedded_checkpoint(), limit=options.limit)
    elif options.limit is not None:
        sweep = sweep_from({**sweep.to_dict(), "limit": options.limit})
    if texts:
        rows = "of its rows only all tokens and " + "; ".join(options.settings)
        sweep = replace(sweep, note=f"{sweep.note}; {rows}" if sweep.note else rows)
    return sweep


def why_not(sweep: Sweep) -> str | None:
    """Why the table cannot run on its own checkpoints here; None when it can."""
    if not torch.cuda.is_available():
        return "there is no GPU here"
    missing = [model.checkpoint for model in sweep.models if checkpoint_folder(model.checkpoint) is None]
    if missing:
        return f"{missing[0]} is not here; scripts/download.sh fetches it"
    return None


def run_exam(sweep: ExamSweep, options: argparse.Namespace) -> int:
    """Sits the exam under what is missing; prints and notes down what cannot run, and why."""
    from llava.eval.exam.evaluator import run_exam_sweep, weights_hash  # loads the model's code

    asked = {"checkpoint": options.model_path, "settings": options.settings and tuple(options.settings)}
    asked |= {name: getattr(options, name) for name in ("questions", "seed", "captioned", "ablations_at")}
    asked["retentions"] = options.retention and tuple(options.retention)
    sweep = replace(sweep, **{name: value for name, value in asked.items() if value is not None})
    output = options.output or Path("runs/exam")
    refused: dict[str, str] = {}
    if not options.report:
        parts = [setting for part in options.only or PARTS for setting in sweep.part(part)]
        settings = list(dict.fromkeys([*sweep.settings, *parts]))
        refused = run_exam_sweep(sweep, settings, output)
        for name, reason in refused.items():
            said = "cannot run" if name in sweep.settings else "was left out"
            print(f"{name} {said}: {reason}", file=sys.stderr)
        if parts:
            known = {name: reason for name, reason in left_out(output).items() if name not in settings} | refused
            lines = [f"{name}\t{' '.join(reason.split())}\n" for name, reason in known.items()]
            output.mkdir(parents=True, exist_ok=True)
            (output / LEFT_OUT).write_text("".join(lines))
    if options.page or options.report:
        page = options.page or Path("docs/results.md")
        identity = {"weights": weights_hash(Path(sweep.checkpoint)), "questions": sweep.questions, "seed": sweep.seed}
        write_exam(output, page, sweep, identity)
        print(page)
    return 1 if any(name in refused for name in sweep.settings) else 0


main = entry("eval")

if __name__ == "__main__":
    sys.exit(main())
