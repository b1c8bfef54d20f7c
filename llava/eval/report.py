"""`aot report`: what sweeps and exams left, as Markdown, CSV and pictures."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.eval.embedded import ROOT
from llava.eval.exam.settings import ExamSweep, methods_at, parse_setting
from llava.eval.jsonl import LineError
from llava.eval.sweep import SweepError, load_sweep
from llava.eval.tables.bars import bars_section
from llava.eval.tables.benchmark_page import as_csv, markdown
from llava.eval.tables.benchmarks import Table, load_tables
from llava.eval.tables.exam import holds_exam, ranking, read_runs
from llava.eval.tables.exam_page import ablation_section, ablations_csv, exam_section, methods_csv, methods_section
from llava.eval.tables.markdown import write_section
from llava.eval.tables.plots import accuracy_plot, table_plot

PAGES = ROOT / "docs" / "reproduced"
LEFT_OUT = "left-out.txt"  # beside an exam's runs: settings that cannot run, and why


def add_options(parser: Parser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what `aot eval` or `aot exam` wrote")
    page = "where an exam's sections go (default: docs/results.md)"
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"), metavar="FILE", help=page)
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: the first FOLDER)")


def execute(options) -> int:
    """Writes the tables; 0, or 2 after one sentence for what cannot be read, or 1 when questions failed or lack."""
    try:
        exams = [folder for folder in options.folders if holds_exam(folder)]
        for folder in exams:
            write_exam(folder, options.page, load_sweep("methods"))
            print(options.page)
        tables = load_tables([folder for folder in options.folders if folder not in exams])
        for page in write_benchmarks(tables, options.output or options.folders[0]):
            print(page)
    except (SweepError, LineError, OSError) as error:
        print(f"aot report: {error}", file=sys.stderr)
        return 2
    whole = all(row.average is not None and not row.failed for table in tables for row in table.rows)
    if not whole:
        print("aot report: some runs are missing or have failed questions; the tables say which.", file=sys.stderr)
    return 0 if whole else 1


def write_benchmarks(tables: Sequence[Table], folder: Path, *, name: str | None = None) -> list[Path]:
    """Writes NAME.md, NAME.csv and, with matplotlib, NAME.png of every table; returns the pages.

    name: by default the sweep's, with the model's where there are several. Pages among the project's documents are
    listed in its results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for table in tables:
        stem = name or table.sweep.name
        if len(table.sweep.models) > 1:
            stem += "-" + re.sub(r"[^\w.]+|_+", "-", table.model.name.lower()).strip("-.")
        page = folder / f"{stem}.md"
        page.write_text(markdown(table), encoding="utf-8")
        (folder / f"{stem}.csv").write_text(as_csv(table), encoding="utf-8")
        if table_plot(table, folder / f"{stem}.png"):
            page.write_text(markdown(table, image=f"{stem}.png"), encoding="utf-8")
        pages.append(page)
    if folder.resolve() == PAGES:
        write_section(PAGES.parent / "results.md", "reproduced", listing(PAGES))
    return pages


def listing(pages: Path) -> str:
    """A line for every page: its title, a link, and its picture."""
    lines = ["## Published tables, run here", "Each page has the table, intervals, failures and what it was made with."]
    for page in sorted(pages.glob("*.md")):
        heading = page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"- [{heading}]({pages.name}/{page.name})")
        if page.with_suffix(".png").is_file():
            lines.append(f"  ![{heading}]({pages.name}/{page.stem}.png)")
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def write_exam(folder: Path, page: Path, sweep: ExamSweep, wanted: Mapping[str, Any] | None = None) -> None:
    """The exam's sections of a page from the runs of a folder; of a sweep over methods also CSV files and a plot.

    wanted: as in `read_runs`.
    """
    # 1. the settings of the sweep, or before its methods and ablations those of the exam
    runs = read_runs(folder, **wanted or {})
    refused = {name: reason for name, reason in left_out(folder).items() if name not in runs}
    listed = load_sweep("exam").settings if sweep.retentions or sweep.ablations else sweep.settings
    names = dict.fromkeys(["full", *(parse_setting(name).name for name in listed)])
    write_section(page, "exam", exam_section(runs, [name for name in names if name in runs]))
    write_section(page, "bars", bars_section(runs))
    # 2. the methods, at the retentions at which every one was asked or refused: only there can be said who is first
    asked = [r for r in sweep.retentions if {*runs, *refused}.issuperset(methods_at(r))]
    ranked = replace(sweep, retentions=tuple(asked))
    methods = [*ranked.part("methods"), *ranked.part("inside")]
    rows = ranking(runs, [name for name in methods if name in runs])
    if rows:
        missing = {name: reason for name, reason in refused.items() if name in methods}
        plot = f"images/{page.stem}-methods.png"
        write_section(page, "methods", methods_section(rows, runs, missing, plot))
        page.with_name(f"{page.stem}-methods.csv").write_text(methods_csv(rows, runs))
        accuracy_plot(rows, runs, page.parent / plot)
    # 3. the ablations
    if any(name in runs for name in sweep.part("ablations")):
        write_section(page, "ablations", ablation_section(runs, sweep, refused))
        page.with_name(f"{page.stem}-ablations.csv").write_text(ablations_csv(runs, sweep))


def left_out(folder: Path) -> dict[str, str]:
    """Reasons of the settings that could not run, noted down beside an exam's runs."""
    path = folder / LEFT_OUT
    return dict(line.split("\t", 1) for line in path.read_text().splitlines()) if path.exists() else {}


main = entry("report")
