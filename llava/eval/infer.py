"""Answers a file of questions about videos: `python -m llava.eval.infer --input Q.jsonl --output A.jsonl`.

Input: one JSON object a line with id, video (a path, relative to the file) and question. Output: one line each, in the
same order, with answer or failure, settings, token counts and times. Beside the output a folder OUTPUT.work keeps what
is answered, so the same command goes on after an interruption, and failed questions are asked again. A line that is
no question fails by itself, with its file and number.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.chat.model_defaults import default_prompt_style
from llava.chat.options import add_model_options, model_path
from llava.eval.inference.job import Job, answer_lines, read_job
from llava.eval.jsonl import write_jsonl
from llava.eval.sweep.progress import SweepProgress
from llava.eval.sweep.runner import Launch, last_log_line, module_words, run_module
from llava.eval.sweep.spec import SweepError
from llava.eval.sweep.store import ResponseStore, StoreReader
from llava.model.checkpoint import read_settings


def execute(options) -> int:
    """0 when every question has an answer, 1 when some failed or the work broke off, 2 for a wrong command."""
    prog = "aot infer"
    try:
        job = read_job(options)
        launch = launch_of(options)
        if note := default_prompt_style(SimpleNamespace(**read_settings(model_path(options)))).note:
            print(f"{prog}: {note}", file=sys.stderr)
        words = [*module_words(launch, "llava.eval.inference.worker"), *options.words]
        return _run(job, options, launch, words, prog)
    except (ValueError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def add_options(parser: Parser) -> None:
    """Those of a file of questions, and the chat's options for the model and the video."""
    work = parser.add_argument_group("work")
    add = work.add_argument
    add("--input", type=Path, required=True, metavar="JSONL", help="lines with id, video and question")
    add("--output", type=Path, required=True, metavar="JSONL", help="where the answers go")
    add("--nproc_per_node", type=int, default=1, metavar="N", help="processes on this machine, one a GPU")
    add("--nnodes", type=int, default=1, metavar="N", help="machines; start the same command on each")
    add("--node_rank", type=int, default=0, metavar="R", help="number of this machine, from 0")
    add("--master_addr", metavar="HOST", help="where machine 0 can be reached")
    add("--master_port", type=int, default=29500, metavar="PORT", help="and its port (default 29500)")
    add_model_options(parser)


def launch_of(options) -> Launch:
    """Where the processes run. Raises SweepError when the numbers do not go together."""
    if options.nnodes > 1 and not options.master_addr:
        raise SweepError("Several machines need --master_addr HOST, the address of machine 0.")
    return Launch(
        processes=options.nproc_per_node,
        machines=options.nnodes,
        machine_rank=options.node_rank,
        main_address=f"{options.master_addr}:{options.master_port}" if options.master_addr else None,
    )


def work_folder(options) -> Path:
    """Where answers are kept while there is work."""
    return options.output.with_name(options.output.name + ".work")


def _run(job: Job, options, launch: Launch, words: list[str], prog: str) -> int:
    folder = work_folder(options)
    folder.mkdir(parents=True, exist_ok=True)
    if launch.machine_rank == 0:
        _forget_failures(job, folder)
    reader, keys = StoreReader(folder), [asked.key for asked in job.questions]
    log = folder / f"log-{launch.machine_rank}.txt"
    with SweepProgress() as progress:
        code = run_module(words, log, on_poll=lambda: progress.show(prog, reader.answered(keys), len(keys)))
    missing = len(keys) - reader.answered(keys)
    if missing:
        said = f"exit code {code}: {last_log_line(log)}" if code else "no reason given"
        print(f"{prog}: {missing} of {len(keys)} questions have no answer yet ({said}; see {log})", file=sys.stderr)
        return 1
    lines = answer_lines(job, reader)
    write_jsonl(options.output, lines, part=f".{launch.machine_rank}.part")
    failed = [line for line in lines if line["failure"] is not None]
    for line in failed[:10]:
        named = "" if line["id"] is None else f"{line['id']}: "
        print(f"{prog}: {named}{line['failure']}", file=sys.stderr)
    print(f"{options.output}: {len(lines) - len(failed)} answered, {len(failed)} failed")
    return 1 if failed else 0


def _forget_failures(job: Job, folder: Path) -> None:
    """Failed questions, and the videos they are about, are open again."""
    with ResponseStore(folder) as store:
        for key, questions in job.videos().items():
            failed = [a.key for a in questions if (store.get(a.key) or {}).get("failure") is not None]
            for name in [*failed, key] if failed else []:
                store.forget(name)


main = entry("infer")

if __name__ == "__main__":
    sys.exit(main())
