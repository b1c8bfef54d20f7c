"""`aot eval`: runs a sweep; what is there already is not made again."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.eval.jsonl import LineError
from llava.eval.markdown import write_section
from llava.eval.provenance import checkpoint_folder
from llava.eval.sweep.embedded import ROOT, embedded_checkpoint, stand_in
from llava.eval.sweep.plan import with_limit
from llava.eval.sweep.progress import SweepProgress
from llava.eval.sweep.report import write_table
from llava.eval.sweep.runner import LAUNCHERS, Launch, Summary, run_sweep
from llava.eval.sweep.spec import Sweep, SweepError, known_sweeps, load_sweep
from llava.eval.sweep.tables import load_tables

OUTPUT = Path("runs/sweeps")
PAGES = ROOT / "docs" / "reproduced"


def execute(options: argparse.Namespace) -> int:
    """Runs a sweep; 0 when every question has a reply, 1 when something failed, 2 for a wrong command."""

    def work() -> Summary:
        sweep, launch = chosen(options), launch_of(options)
        summary = run_sweep(sweep, options.output, launch, SweepProgress())
        if options.pages and launch.machine_rank == 0:
            for page in write_pages(summary.folder, options.pages, sweep.table or sweep.name):
                print(page)
        return summary

    return finish("aot eval", work)


def finish(prog: str, work: Callable[[], Summary]) -> int:
    """Runs the work of a command that runs sweeps, says how it ended, and returns the exit code."""
    try:
        summary = work()
    except (SweepError, LineError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2 if isinstance(error, SweepError) else 1
    except KeyboardInterrupt:
        print(f"{prog}: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    print_summary(summary, prog)
    return 0 if summary.ok else 1


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("sweep", metavar="SWEEP", help=f"a YAML file, or one of: {known_sweeps()}")
    add("--limit", type=int, metavar="N", help="questions a task, to try things out")
    add("--settings", action="append", default=[], metavar="TEXT", help="only those with this in the name; repeatable")
    add("--embedded", action="store_true", help="on the embedded model, whatever there is")
    add("--or-embedded", action="store_true", help="on the embedded model where its own models cannot run")
    add("--pages", type=Path, metavar="DIR", help="write the tables here at the end")
    add_launch_options(parser)


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where and on what a sweep runs."""
    add = parser.add_argument
    add("--output", type=Path, default=OUTPUT, metavar="DIR", help=f"folder of all results (default {OUTPUT})")
    add("--processes", type=int, default=1, metavar="N", help="processes on this machine, one a GPU (default 1)")
    add("--machines", type=int, default=1, metavar="N", help="machines; start the same command on each")
    add("--machine-rank", type=int, default=0, metavar="R", help="number of this machine, from 0")
    add("--main-address", metavar="HOST:PORT", help="where machine 0 can be reached")
    add("--launcher", choices=LAUNCHERS, default="torchrun", help="what starts several processes")
    add("--device", help="cpu or cuda (default: the GPUs where there are any)")


def launch_of(options: argparse.Namespace) -> Launch:
    """Where to run, from the options."""
    device = options.device or (None if torch.cuda.is_available() else "cpu")
    return Launch(
        processes=options.processes,
        machines=options.machines,
        machine_rank=options.machine_rank,
        main_address=options.main_address,
        launcher=options.launcher,
        device=None if device == "cuda" else device,
    )


def print_summary(summary: Summary, prog: str) -> None:
    """What is there now, and openly what is not."""
    for name, reason in summary.broken.items():
        print(f"{prog}: {name} did not complete: {reason}", file=sys.stderr)
    for name, count in summary.failed.items():
        print(f"{prog}: {name}: {count} questions failed and count as wrong", file=sys.stderr)
    print(f"{summary.folder}: {'complete' if summary.ok else 'not complete; the same command goes on from here'}")


def write_pages(folder: Path, pages: Path, name: str) -> list[Path]:
    """The pages of a sweep's tables, one a model; those among the project's documents are listed in its results."""
    written = [write_table(table, pages, name=name) for table in load_tables([folder])]
    if pages.resolve() == PAGES:
        write_section(PAGES.parent / "results.md", "reproduced", listing(PAGES))
    return written


def listing(pages: Path) -> str:
    """A line for every page: its title, a link, and its picture."""
    lines = ["## Published tables, run here", "Each page has the table, intervals, failures and what it was made with."]
    for page in sorted(pages.glob("*.md")):
        heading = page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"- [{heading}]({pages.name}/{page.name})")
        if page.with_suffix(".png").is_file():
            lines.append(f"  ![{heading}]({pages.name}/{page.stem}.png)")
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def chosen(options) -> Sweep:
    """The sweep of the options, on the embedded model if that is asked for; it says so."""
    sweep = load_sweep(options.sweep)
    if options.settings:
        kept = tuple(
            s for s in sweep.settings if s.aot is None or any(t.lower() in s.name.lower() for t in options.settings)
        )
        sweep = replace(sweep, settings=kept)
    reason = "as asked" if options.embedded else why_not(sweep) if options.or_embedded else None
    if reason is None:
        sweep = with_limit(sweep, options.limit)
    else:
        print(f"This runs on the embedded model ({reason}).", file=sys.stderr)
        sweep = stand_in(sweep, embedded_checkpoint(), limit=options.limit)
    if options.settings:
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
