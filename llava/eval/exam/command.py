"""`aot exam`: sits the held-out exam under settings by name, or under every method and ablation."""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from aot_cli.main import entry
from aot_cli.parser import Parser, add_cache_options, share
from aot_tiny.worlds import WORLDS
from llava.eval.exam.evaluator import run_exam_sweep, weights_hash
from llava.eval.exam.settings import PARTS, ExamSweep
from llava.eval.report import LEFT_OUT, left_out, write_exam
from llava.eval.sweep import SweepError, load_sweep
from llava.eval.tables.exam import IDENTITY
from llava.model.builder import FEW_BITS
from llava.video_cache import encoder_cache

_CHANGED = ("world", "tower_dtype", "quantization", "questions", "seed", "captioned", "ablations_at")


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("sweep", nargs="?", default="exam", metavar="SWEEP", help="exam (default), methods, or a YAML file")
    add("--settings", nargs="+", metavar="NAME", help="METHOD@RETENTION and the like, instead of the sweep's")
    add("--model-path", metavar="DIR", help="checkpoint folder (default: aot-tiny)")
    add("--tower-dtype", choices=("float32", "bfloat16"), metavar="NAME", help="of the vision tower")
    add("--quantization", choices=FEW_BITS, metavar="NAME", help="of the language model: 8bit, 4bit or int8")
    add("--world", choices=tuple(WORLDS), help="of the clips (default: the model's own)")
    add("--questions", type=int, metavar="N", help="how many (default 1040)")
    add("--seed", type=int, metavar="N", help="the exam's first clip")
    add("--captioned", type=int, metavar="N", help="clips whose captions are scored")
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of methods: {', '.join(PARTS)}")
    add("--retention", type=share, nargs="+", metavar="R", help="of methods: shares to ask at")
    add("--ablations-at", type=share, metavar="R", help="of methods: retention of the ablations")
    add("--output", type=Path, default=Path("runs/exam"), metavar="DIR", help="replies and clips (default runs/exam)")
    add_cache_options(add)
    add("--page", type=Path, metavar="FILE", help="write the sections of this page at the end")
    add("--report", action="store_true", help="ask nothing; write the page from what is there")


def execute(options: argparse.Namespace) -> int:
    """Sits the exam; 0, 1 when a setting of the sweep's own could not run, 2 for a wrong command."""
    try:
        sweep = load_sweep(options.sweep)
        if not isinstance(sweep, ExamSweep):
            raise SweepError(f"{options.sweep} is over benchmarks; use aot eval {options.sweep}.")
        return _run(sweep, options)
    except ValueError as error:
        print(f"aot exam: {error}", file=sys.stderr)
        return 2


def _run(sweep: ExamSweep, options: argparse.Namespace) -> int:
    # the sweep with what the options say in the place of its own
    changed = {name: getattr(options, name) for name in _CHANGED}
    changed |= {"checkpoint": options.model_path, "settings": options.settings and tuple(options.settings)}
    changed["retentions"] = options.retention and tuple(options.retention)
    sweep = replace(sweep, **{name: value for name, value in changed.items() if value is not None})
    refused: dict[str, str] = {}
    if not options.report:
        parts = [setting for part in options.only for setting in sweep.part(part)]
        settings = list(dict.fromkeys([*sweep.settings, *parts]))
        cache = options.cache and partial(encoder_cache, options.cache, options.cache_gb)
        refused = run_exam_sweep(sweep, settings, options.output, open_cache=cache)
        for name, reason in refused.items():
            said = "cannot run" if name in sweep.settings else "was left out"
            print(f"{name} {said}: {reason}", file=sys.stderr)
        if parts:  # the tables name what is not in them
            known = {name: reason for name, reason in left_out(options.output).items() if name not in settings}
            lines = [f"{name}\t{' '.join(reason.split())}\n" for name, reason in (known | refused).items()]
            options.output.mkdir(parents=True, exist_ok=True)
            (options.output / LEFT_OUT).write_text("".join(lines))
    if options.page or options.report:
        page = options.page or Path("docs/results.md")
        said = {"weights": weights_hash(Path(sweep.checkpoint)), "questions": sweep.questions, "seed": sweep.seed}
        write_exam(options.output, page, sweep, dict.fromkeys(IDENTITY) | said | sweep.header)
        print(page)
    return 1 if any(name in refused for name in sweep.settings) else 0


main = entry("exam")

if __name__ == "__main__":
    sys.exit(main())
