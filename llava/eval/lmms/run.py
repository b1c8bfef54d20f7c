"""One model on lmms-eval's tasks, with all tokens and at some retentions: what scripts/eval_*.sh start.

It is a sweep that is written on the command line instead of in a YAML file, and resumes as one does.
"""

import argparse
from typing import Any

from aot_cli.parser import Parser, share
from llava.chat.options import json_or_word
from llava.eval.sweep.cli import add_launch_options, finish, launch_of
from llava.eval.sweep.progress import SweepProgress
from llava.eval.sweep.report import write_table
from llava.eval.sweep.runner import Summary, run_sweep
from llava.eval.sweep.spec import Sweep, SweepError, sweep_from
from llava.eval.sweep.tables import load_tables
from llava.utils import shipped

TASKS = shipped("lmms_eval_tasks")


def execute(options: argparse.Namespace) -> int:
    """0 when every question has a reply, 1 when some failed or a run did not complete, 2 for a wrong command."""

    def work() -> Summary:
        sweep, launch = sweep_of(options), launch_of(options)
        summary = run_sweep(sweep, options.output, launch, SweepProgress())
        if launch.machine_rank == 0:
            for table in load_tables([summary.folder]):
                print(write_table(table, summary.folder))
        return summary

    return finish("aot benchmark", work)


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("--name", required=True, help="of the folder of results, and in the table")
    add("--model", required=True, help="lmms-eval's id of the wrapper")
    add("--model-path", required=True, help="checkpoint folder or hub name")
    add("--tasks", nargs="+", required=True, metavar="TASK", help="tasks or groups of lmms-eval or lmms_eval_tasks")
    add("--retention", nargs="*", type=share, default=[], metavar="R", help="shares of tokens, beside all of them")
    add("--method", default="aot", help="what chooses the tokens (default aot)")
    add("--preset", action="append", default=[], metavar="NAME[,FIELD=VALUE...]", help="a preset, such as released")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="further settings at every retention")
    add("--args", action="append", default=[], metavar="NAME=VALUE", help="further --model_args of the wrapper")
    add("--limit", type=int, metavar="N", help="questions a task, to try things out")
    add_launch_options(parser)


def sweep_of(options: argparse.Namespace) -> Sweep:
    """The sweep that the options describe. Raises SweepError."""
    fields = dict(_pair(text) for text in options.set)
    settings: list[dict[str, Any]] = [{"name": "all tokens"}]
    for retention in options.retention:
        aot = {"method": options.method, "retention": retention, **fields}
        settings.append({"name": f"{options.method}, {100 * retention:g} %", "aot": aot})
    for text in options.preset:
        name, *changes = text.split(",")
        settings.append({"name": text, "aot": {"preset": name, **dict(_pair(change) for change in changes)}})
    return sweep_from(
        {
            "name": options.name,
            "title": options.name,
            "models": [
                {
                    "name": options.name,
                    "id": options.model,
                    "checkpoint": options.model_path,
                    "args": dict(_pair(text) for text in options.args),
                }
            ],
            "settings": settings,
            "tasks": options.tasks,
            "limit": options.limit,
            "include_path": str(TASKS),
        }
    )


def _pair(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON where it is JSON and as a word otherwise."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise SweepError(f"{text!r} is not NAME=VALUE.")
    return name, json_or_word(value)
