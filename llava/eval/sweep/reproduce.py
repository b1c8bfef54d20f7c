"""`scripts/reproduce.sh TABLE`: one of the published tables from nothing to a page in docs/reproduced."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.eval.markdown import write_section
from llava.eval.provenance import checkpoint_folder
from llava.eval.sweep.cli import add_launch_options, finish, launch_of
from llava.eval.sweep.embedded import ROOT, embedded_checkpoint, stand_in
from llava.eval.sweep.plan import with_limit
from llava.eval.sweep.progress import SweepProgress
from llava.eval.sweep.report import write_table
from llava.eval.sweep.runner import Summary, run_sweep
from llava.eval.sweep.spec import SWEEPS, Sweep, SweepError, known_sweeps, load_sweep
from llava.eval.sweep.tables import load_tables

ALIASES = {"main-vid": "main-video"}
PAGES = ROOT / "docs" / "reproduced"


def add_options(parser: Parser) -> None:
    parser.add_argument("table", metavar="TABLE", help=f"one of: {known_sweeps()}")
    parser.add_argument("--embedded", action="store_true", help="use the embedded model whatever there is")
    parser.add_argument("--limit", type=int, metavar="N", help="questions a task (default: all)")
    parser.add_argument(
        "--settings", action="append", default=[], metavar="TEXT",
        help="only all tokens and the settings with this in their name; may be repeated",
    )  # fmt: skip
    parser.add_argument("--pages", type=Path, default=PAGES, metavar="DIR", help="where the page goes")
    add_launch_options(parser)


def execute(options) -> int:
    """Runs what is missing of a table and writes its page; 0 when every question has a reply."""

    def work() -> Summary:
        sweep, launch = chosen(options), launch_of(options)
        summary = run_sweep(sweep, options.output, launch, SweepProgress())
        if launch.machine_rank == 0:
            for page in write_pages(summary.folder, options.pages, ALIASES.get(options.table, options.table)):
                print(page)
        return summary

    return finish("aot reproduce", work)


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
    """The table's sweep, on the embedded model where the real one cannot run; it says so."""
    name = ALIASES.get(options.table, options.table)
    if not (SWEEPS / f"{name}.yaml").is_file():
        raise SweepError(f"There is no table {options.table!r}; use one of: {known_sweeps()}.")
    sweep = load_sweep(name)
    if options.settings:
        kept = tuple(
            s for s in sweep.settings if s.aot is None or any(t.lower() in s.name.lower() for t in options.settings)
        )
        sweep = replace(sweep, settings=kept)
    reason = "as asked" if options.embedded else why_not(sweep)
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


main = entry("reproduce")
