"""Runs what a sweep still lacks, run by run: lmms-eval's command line, its process, and what it left."""

import argparse
import ctypes
import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from aot_cli.main import handling
from llava.eval.jsonl import write_json
from llava.eval.lmms.results import ResultError, read_outcome
from llava.eval.plan import Run, check_installed, make_plan, read_result, write_plan
from llava.eval.progress import QuestionProgress
from llava.eval.provenance import environment
from llava.eval.records import Record, task_score, write_records
from llava.eval.store import ResponseStore, locked
from llava.eval.sweep import Sweep, SweepError

LAUNCHERS = ("torchrun", "accelerate")
CACHED = ("llava_onevision_aot", "llava_vid_aot")  # wrappers that keep encoded videos
# slow to import, so imported once for all runs; none of them starts threads or touches a GPU
PRELOADED = {
    "lmms_eval": [
        "lmms_eval.evaluator",
        "lmms_eval.loggers",
        "lmms_eval.tasks",
        "lmms_eval.models.simple.llava_onevision",
    ],
}
POLL = 0.5  # seconds between looks at a run
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Launch:
    """Where processes run, named as torchrun names it.

    nproc_per_node: processes on each machine, one a GPU. master_addr, master_port: of machine 0. device: None takes
    the GPUs. module: what stands for lmms-eval. cache, cache_gb: folder of encoded videos, and most of all of them.
    """

    nproc_per_node: int = 1
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str | None = None
    master_port: int = 29500
    launcher: str = "torchrun"
    device: str | None = None
    module: str = "lmms_eval"
    cache: Path | None = None
    cache_gb: float = 10.0

    def __post_init__(self) -> None:
        if self.nproc_per_node < 1 or self.nnodes < 1:
            raise SweepError("--nproc_per_node and --nnodes must be 1 or more.")
        if not 0 <= self.node_rank < self.nnodes:
            raise SweepError(f"--node_rank counts from 0 to {self.nnodes - 1}, and is {self.node_rank}.")
        if self.launcher not in LAUNCHERS:
            raise SweepError(f"There is no launcher {self.launcher!r}; use {' or '.join(LAUNCHERS)}.")
        if self.nnodes > 1 and not self.master_addr:
            raise SweepError("Several machines need --master_addr HOST, the address of machine 0.")
        if self.launcher == "accelerate" and self.device == "cpu" and self.world > 1:
            raise SweepError("accelerate starts one process only on CPUs; use --launcher torchrun there.")

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.nproc_per_node * self.nnodes

    def words(self, module: str) -> list[str]:
        """The words after `python -m` that start a module: its name, behind a launcher where it runs several times."""
        if self.world == 1:
            return [module]
        address, port = str(self.master_addr), str(self.master_port)
        if self.launcher == "accelerate":
            several = ["--main_process_ip", address, "--main_process_port", port] if self.nnodes > 1 else []
            return [
                "accelerate.commands.launch", "--num_processes", str(self.world), "--num_machines", str(self.nnodes),
                "--machine_rank", str(self.node_rank), *several, "-m", module,
            ]  # fmt: skip
        where = ["--standalone"]
        if self.nnodes > 1:
            where = ["--nnodes", str(self.nnodes), "--node_rank", str(self.node_rank)]
            where += ["--master_addr", address, "--master_port", port]
        return ["torch.distributed.run", "--nproc_per_node", str(self.nproc_per_node), *where, "-m", module]


def add_launch_options(group) -> None:
    """Those of `Launch` that every command with several processes has. group: of a parser."""
    add = group.add_argument
    add("--nproc_per_node", type=int, default=1, metavar="N", help="processes on this machine, one a GPU")
    add("--nnodes", type=int, default=1, metavar="N", help="machines; start the same command on each")
    add("--node_rank", type=int, default=0, metavar="R", help="number of this machine, from 0")
    add("--master_addr", metavar="HOST", help="where machine 0 can be reached")
    add("--master_port", type=int, default=29500, metavar="PORT", help="and its port (default 29500)")


def launch_of(options: argparse.Namespace, **more) -> Launch:
    """Where to run, from the options. Raises SweepError when the numbers do not go together."""
    names = ("nproc_per_node", "nnodes", "node_rank", "master_addr", "master_port")
    return Launch(**{name: getattr(options, name) for name in names}, **more)


@dataclass(frozen=True)
class Summary:
    """How a sweep ended: runs that did not complete, with the reason, and failed questions by run."""

    folder: Path
    broken: dict[str, str]
    failed: dict[str, int]

    @property
    def ok(self) -> bool:
        return not self.broken and not self.failed


def run_sweep(sweep: Sweep, output: Path, launch: Launch) -> Summary:
    """Runs what is missing and asks failed questions again; complete runs are left as they are.

    On machines other than 0 it only takes part: machine 0 writes the results. Raises InUseError when another
    process works on the same sweep.
    """
    check_installed(sweep, launch.module)
    runs = make_plan(sweep, output)
    for run in runs:
        command(run, launch, run.folder)  # arguments that cannot be passed on are refused before any work
    folder = output / sweep.name
    distinct = list({run.folder: run for run in reversed(runs)}.values())[::-1]  # equal runs are made once
    broken: dict[str, str] = {}
    failed: dict[str, int] = {}
    with locked(folder) if launch.node_rank == 0 else nullcontext(), QuestionProgress() as progress:
        if launch.node_rank == 0:
            write_plan(sweep, runs, output)
        for number, run in enumerate(distinct, 1):
            result = read_result(run.folder)
            if result is None or result["failed"]:
                what, store = f"{run.name} (run {number} of {len(distinct)})", ResponseStore(run.store)
                error = launch_run(
                    run, launch, on_poll=lambda w=what, s=store: progress.show(w, s.answered(), s.expected())
                )
                if launch.node_rank == 0:
                    result = read_result(run.folder)
                if error:
                    broken[run.name] = error
                    progress.say(f"{run.name}: {error}")
            if result is not None and result["failed"]:
                failed[run.name], reason = result["failed"], next(iter(result["failures"]), "")
                progress.say(f"{run.name}: {result['failed']} of {result['questions']} questions failed ({reason})")
    return Summary(folder, broken, failed)


def launch_run(run: Run, launch: Launch, *, on_poll: Callable[[], None]) -> str | None:
    """Runs lmms-eval for one run, calling on_poll() now and then; why it did not complete, or None."""
    attempt = run.folder / "attempts" / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}-{os.getpid()}"
    attempt.mkdir(parents=True)
    if launch.node_rank == 0:
        write_json(run.folder / "identity.json", run.identity)
        if run.model.keeps_answers:
            with ResponseStore(run.store) as store:
                store.forget_failures()
    words, started, clock = command(run, launch, attempt), datetime.now(timezone.utc), time.monotonic()
    log = attempt / "log.txt"
    code = run_module(words, log, on_poll=on_poll, preloaded=PRELOADED.get(launch.module, []))
    if code != 0:
        return f"lmms-eval ended with exit code {code}: {last_log_line(log)} (see {log})"
    if launch.node_rank != 0:
        return None
    try:
        questions, scores = read_outcome(attempt, run.store if run.model.keeps_answers else None)
    except ResultError as error:
        return f"{error}; see {log}"
    write_records(run.folder / "questions.jsonl", questions)
    made = {
        "harness_scores": scores,
        "command": [sys.executable, "-m", *words],
        "processes": launch.nproc_per_node,
        "machines": launch.nnodes,
        "started": started.isoformat(timespec="seconds"),
        "seconds_of_last_start": round(time.monotonic() - clock, 1),
    }
    # written last, so that its presence says that the run is complete
    write_json(run.folder / "result.json", {**_manifest(run, questions), **made, **environment()})
    return None


def _manifest(run: Run, questions: list[Record]) -> dict[str, Any]:
    """What was run and how it ended."""
    failures = [q.failure for q in questions if q.failure is not None]
    by_task: dict[str, list[Record]] = {}
    for question in questions:
        by_task.setdefault(question.task, []).append(question)
    scores = {task: task_score(of) for task, of in by_task.items()}
    return {
        "identity": run.identity,
        "model": run.model.name,
        "setting": run.setting.name,
        "questions": len(questions),
        "failed": len(failures),
        "failures": sorted(set(failures))[:20],
        "scores": {task: score for task, score in scores.items() if score is not None},
    }


def command(run: Run, launch: Launch, attempt: Path) -> list[str]:
    """The words after `python -m` that run lmms-eval; results go to `attempt`. Without DEBUG it leaves with 0 after an
    exception.
    """
    # --model_args: checkpoint, the wrapper's arguments, the method's settings, the response store
    values: dict[str, Any] = {"pretrained": run.model.checkpoint, **run.identity["arguments"]}
    if launch.device:
        values["device_map"] = "auto"  # with --device; either alone goes to the GPU
    if run.model.keeps_answers:
        values |= run.setting.aot_on(run.task.name) or {"retention": 1}  # 1 leaves every token
        values["store"] = str(run.store)
    if launch.cache is not None:
        if run.model.id not in CACHED:
            raise SweepError(f"--cache is for {' and '.join(CACHED)}; model {run.model.name!r} runs as {run.model.id}.")
        values |= {"cache": str(launch.cache.resolve()), "cache_gb": launch.cache_gb}
    model_args = ",".join(f"{name}={_text(name, value)}" for name, value in values.items())
    arguments = [
        "--model", run.model.id, "--model_args", model_args, "--tasks", run.task.name, "--batch_size", "1",
        "--seed", str(run.sweep.seed), "--output_path", str(attempt), "--log_samples", "--verbosity", "DEBUG",
    ]  # fmt: skip
    if run.sweep.limit is not None:
        arguments += ["--limit", str(run.sweep.limit)]
    if run.sweep.include_path:
        arguments += ["--include_path", str(Path(run.sweep.include_path).resolve())]
    if launch.device:
        arguments += ["--device", launch.device]
    return [*launch.words(launch.module), *arguments]


def _text(name: str, value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, separators=(",", ":"))
    text = str(value)
    if not text.isprintable() or any(mark in text for mark in ",'\"{}[]"):
        raise SweepError(f"{name} is {text!r}, but lmms-eval takes no commas, quotes or brackets there; rename it.")
    return text


def run_module(words: list[str], log: Path, *, on_poll: Callable[[], None], preloaded: Sequence[str] = ()) -> int:
    """Runs `python -m words...` with its output in `log`, calling on_poll() now and then; its exit code.

    It is a fork of a process that has imported the modules `preloaded`, and ends with this process, whatever ends it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preloaded])
    log.touch()
    with handling({signal.SIGINT: signal.SIG_IGN}):  # what starts here leaves Ctrl-C to this process
        forkserver.ensure_running()
    child = context.Process(target=_run_forked, args=(words, log, dict(os.environ)))
    child.start()
    try:
        while child.exitcode is None:
            on_poll()
            child.join(POLL)
        return child.exitcode
    finally:
        if child.exitcode is None:
            child.terminate()
            child.join()


def _run_forked(words: list[str], log: Path, environ: dict[str, str]) -> None:
    """In the fork: a module as `python -m` runs it, whose output goes into the log."""
    if sys.platform == "linux":  # the fork server ends with the process that runs the sweep, and this with it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def last_log_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
