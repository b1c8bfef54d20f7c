"""`aot report`: what sweeps and exams left, as Markdown, CSV and pictures."""

import re
import sys
from pathlib import Path

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.eval.jsonl import LineError
from llava.eval.sweep.render import as_csv, markdown
from llava.eval.sweep.spec import SweepError
from llava.eval.sweep.tables import Table, load_tables
from llava.eval.tables.exam_results import holds_exam
from llava.eval.tables.plots import table_plot


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
            from llava.eval.method_table import write  # loads the model's code

            write(folder, options.page, {})
            print(options.page)
        tables = load_tables([folder for folder in options.folders if folder not in exams])
        for table in tables:
            page = write_table(table, options.output or options.folders[0])
            print(page)
    except (SweepError, LineError, OSError) as error:
        print(f"aot report: {error}", file=sys.stderr)
        return 2
    whole = all(row.average is not None and not row.failed for table in tables for row in table.rows)
    if not whole:
        print("aot report: some runs are missing or have failed questions; the tables say which.", file=sys.stderr)
    return 0 if whole else 1


def plain(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^\w.]+|_+", "-", name.lower()).strip("-.")


def page_name(table: Table, name: str | None = None) -> str:
    """The name of a table's files: the sweep's, or another one, with the model's where there are several."""
    name = name or table.sweep.name
    return f"{name}-{plain(table.model.name)}" if len(table.sweep.models) > 1 else name


def write_table(table: Table, folder: Path, *, name: str | None = None) -> Path:
    """Writes NAME.md, NAME.csv and, with matplotlib, NAME.png, by default by the sweep's name; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    name = page_name(table, name)
    page = folder / f"{name}.md"
    page.write_text(markdown(table), encoding="utf-8")
    (folder / f"{name}.csv").write_text(as_csv(table), encoding="utf-8")
    if table_plot(table, folder / f"{name}.png"):
        page.write_text(markdown(table, image=f"{name}.png"), encoding="utf-8")
    return page


main = entry("report")
