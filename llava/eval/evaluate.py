"""`aot eval`: runs what a sweep over benchmarks still lacks, through lmms-eval.

A sweep is a YAML file, or one model on tasks as the options say it. What is there already is not made again.
"""

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from aot_cli.main import entry
from aot_cli.parser import Parser, add_cache_options, pair, share
from llava.eval.embedded import embedded_checkpoint, stand_in
from llava.eval.jsonl import LineError
from llava.eval.provenance import checkpoint_folder
from llava.eval.report import write_benchmarks
from llava.eval.runner import LAUNCHERS, Summary, add_launch_options, launch_of, run_sweep
from llava.eval.sweep import Sweep, SweepError, known_sweeps, load_sweep, sweep_from
from llava.eval.tables.benchmarks import load_tables
from llava.utils import shipped

OUTPUT = Path("runs/sweeps")


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("sweep", nargs="?", metavar="SWEEP", help="a YAML file or one that comes along; or one model:")
    add("--name", help="of the results; with the next seven, instead of SWEEP")
    add("--model", metavar="ID", help="lmms-eval's id of the wrapper")
    add("--model-path", metavar="DIR", help="checkpoint folder or hub name")
    add("--tasks", nargs="+", metavar="T", help="of lmms-eval or lmms_eval_tasks")
    add("--retention", nargs="*", type=share, default=[], metavar="R", help="shares of tokens, beside all of them")
    add("--max-tokens", nargs="*", type=int, default=[], metavar="N", help="numbers of tokens, beside all of them")
    add("--method", default="aot", metavar="NAME", help="what chooses the tokens (default aot)")
    add("--preset", action="append", default=[], metavar="P", help="NAME[,FIELD=VALUE...], such as released")
    add("--set", type=pair, action="append", default=[], metavar="F=V", help="further settings at every retention")
    add("--args", type=pair, action="append", default=[], metavar="N=V", help="further --model_args of the wrapper")
    add("--limit", type=int, metavar="N", help="questions a task, to try things out")
    add("--settings", action="append", default=[], metavar="TEXT", help="those with this in the name; repeatable")
    add("--embedded", action="store_true", help="on the embedded model, whatever there is")
    add("--or-embedded", action="store_true", help="there, where its own models cannot run")
    add("--pages", type=Path, metavar="DIR", help="write the tables here at the end")
    add("--report", action="store_true", help="run nothing; write the tables of what is there")
    add("--output", type=Path, default=OUTPUT, metavar="DIR", help=f"results (default {OUTPUT})")
    add_launch_options(parser)
    add("--launcher", choices=LAUNCHERS, default="torchrun", help=argparse.SUPPRESS)
    add("--device", help="cpu or cuda (default: the GPUs where there are any)")
    add_cache_options(add)


def execute(options: argparse.Namespace) -> int:
    """Runs what is missing; 0 when every question has a reply, 1 when something failed, 2 for a wrong command."""
    try:
        sweep = load_sweep(options.sweep) if options.sweep else one_model(options)
        if not isinstance(sweep, Sweep):
            raise SweepError(f"{sweep.name} is over the embedded model's exam; use aot exam {options.sweep}.")
        return run_benchmarks(sweep, options)
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
        known = f"a YAML file or one of: {known_sweeps()}"
        raise SweepError(f"Name a sweep, {known}; or one model, for which {lacking[0]} is missing.")
    settings: list[dict[str, Any]] = [{"name": "all tokens"}]
    bounds = [({"retention": retention}, f"{100 * retention:g} %") for retention in options.retention]
    bounds += [({"max_tokens": most}, f"{most} tokens") for most in options.max_tokens]
    for bound, said in bounds:
        fields = {"method": options.method, **bound, **dict(options.set)}
        settings.append({"name": f"{options.method}, {said}", "aot": fields})
    for text in options.preset:
        preset, *changes = text.split(",")
        settings.append({"name": text, "aot": {"preset": preset, **dict(map(pair, changes))}})
    model = {"name": options.name, "id": options.model, "checkpoint": options.model_path, "args": dict(options.args)}
    ours = str(shipped("lmms_eval_tasks"))
    rows = {"models": [model], "settings": settings, "tasks": options.tasks}
    return sweep_from({"name": options.name, **rows, "limit": options.limit, "include_path": ours})


def run_benchmarks(sweep: Sweep, options: argparse.Namespace) -> int:
    """Runs what is missing through lmms-eval; says openly what is not there or failed."""
    device = options.device or (None if torch.cuda.is_available() else "cpu")
    where = {"launcher": options.launcher, "device": None if device == "cuda" else device}
    launch = launch_of(options, **where, cache=options.cache, cache_gb=options.cache_gb)
    sweep = _narrowed(sweep, options)
    summary = Summary(options.output / sweep.name, {}, {})
    if not options.report:
        summary = run_sweep(sweep, options.output, launch)
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


def _narrowed(sweep: Sweep, options: argparse.Namespace) -> Sweep:
    """The settings and questions that the options ask for, on the embedded model if that is asked for; it says so."""
    texts = [text.lower() for text in options.settings]
    if texts:
        kept = tuple(s for s in sweep.settings if s.aot is None or any(text in s.name.lower() for text in texts))
        sweep = replace(sweep, settings=kept)
    reason = "as asked" if options.embedded else why_not(sweep) if options.or_embedded else None
    if reason is not None:
        print(f"This runs on the embedded model ({reason}).", file=sys.stderr)
        sweep = stand_in(sweep, embedded_checkpoint(), limit=options.limit)
    elif options.limit is not None:
        sweep = sweep_from({**asdict(sweep), "limit": options.limit})
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


main = entry("eval")

if __name__ == "__main__":
    sys.exit(main())
