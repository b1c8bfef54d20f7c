"""`aot eval`: runs a sweep; what is there already is not made again."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.eval.jsonl import LineError
from llava.eval.sweep.plan import with_limit
from llava.eval.sweep.progress import SweepProgress
from llava.eval.sweep.runner import LAUNCHERS, Launch, Summary, run_sweep
from llava.eval.sweep.spec import SweepError, known_sweeps, load_sweep

OUTPUT = Path("runs/sweeps")


def execute(options: argparse.Namespace) -> int:
    """Runs a sweep; 0 when every question has a reply, 1 when something failed, 2 for a wrong command."""

    def work() -> Summary:
        sweep = with_limit(load_sweep(options.sweep), options.limit)
        return run_sweep(sweep, options.output, launch_of(options), SweepProgress())

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
    parser.add_argument("sweep", metavar="SWEEP", help=f"a YAML file, or one of: {known_sweeps()}")
    parser.add_argument("--limit", type=int, metavar="N", help="questions a task, to try things out")
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


main = entry("eval")
