"""Runs what a sweep still lacks, run by run: lmms-eval's command line, its process, and what it left."""

import ctypes
import fcntl
import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llava.eval.jsonl import write_json
from llava.eval.provenance import environment
from llava.eval.records import task_score, write_records
from llava.eval.sweep.plan import Run, check_installed, make_plan, run_status, write_plan
from llava.eval.sweep.progress import QuestionCount, SweepProgress
from llava.eval.sweep.results import Outcome, ResultError, read_outcome
from llava.eval.sweep.spec import Sweep, SweepError
from llava.eval.sweep.store import ResponseStore

LAUNCHERS = ("torchrun", "accelerate")
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
    """Where a sweep runs.

    processes: on each machine, one a GPU. main_address: HOST:PORT of machine 0. device: None takes the GPUs.
    module: what stands for lmms-eval.
    """

    processes: int = 1
    machines: int = 1
    machine_rank: int = 0
    main_address: str | None = None
    launcher: str = "torchrun"
    device: str | None = None
    module: str = "lmms_eval"

    def __post_init__(self) -> None:
        if self.processes < 1 or self.machines < 1:
            raise SweepError("--processes and --machines must be 1 or more.")
        if not 0 <= self.machine_rank < self.machines:
            raise SweepError(f"--machine-rank counts from 0 to {self.machines - 1}, and is {self.machine_rank}.")
        if self.launcher not in LAUNCHERS:
            raise SweepError(f"There is no launcher {self.launcher!r}; use {' or '.join(LAUNCHERS)}.")
        if self.machines > 1 and not (self.main_address and self.main_address.rpartition(":")[2].isdigit()):
            raise SweepError("Several machines need --main-address HOST:PORT, the address of machine 0.")
        if self.launcher == "accelerate" and self.device == "cpu" and self.processes * self.machines > 1:
            raise SweepError("accelerate starts one process only on CPUs; use --launcher torchrun there.")

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.processes * self.machines


@dataclass(frozen=True)
class Summary:
    """How a sweep ended: runs that did not complete, with the reason, and failed questions by run."""

    folder: Path
    broken: dict[str, str]
    failed: dict[str, int]

    @property
    def ok(self) -> bool:
        return not self.broken and not self.failed


def run_sweep(sweep: Sweep, output: Path, launch: Launch, progress: SweepProgress) -> Summary:
    """Runs what is missing and asks failed questions again; complete runs are left as they are.

    On machines other than 0 it only takes part: machine 0 writes the results. Raises SweepError when another
    process works on the same sweep.
    """
    check_installed(sweep, launch.module)
    runs = make_plan(sweep, output)
    for run in runs:
        command(run, launch, run.folder)  # arguments that cannot be passed on are refused before any work
    folder = output / sweep.name
    distinct = list({run.folder: run for run in reversed(runs)}.values())[::-1]  # equal runs are made once
    counted = QuestionCount(distinct)
    broken: dict[str, str] = {}
    failed: dict[str, int] = {}
    with _locked(folder, launch), progress:
        if launch.machine_rank == 0:
            write_plan(sweep, runs, output)
        for run in distinct:
            status = run_status(run.folder)
            if not status.complete or status.failed:
                error = launch_run(run, launch, on_poll=lambda run=run: progress.show(run.name, *counted.count()))
                if launch.machine_rank == 0:
                    status = run_status(run.folder)
                if error:
                    broken[run.name] = error
                    progress.say(f"{run.name}: {error}")
            if status.complete and status.failed:
                failed[run.name] = status.failed
                progress.say(f"{run.name}: {status.failed} of {status.questions} questions failed ({status.reason})")
    return Summary(folder, broken, failed)


def launch_run(run: Run, launch: Launch, *, on_poll: Callable[[], None]) -> str | None:
    """Runs lmms-eval for one run, calling on_poll() now and then; why it did not complete, or None."""
    attempt = run.folder / "attempts" / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}-{os.getpid()}"
    attempt.mkdir(parents=True)
    if launch.machine_rank == 0:
        write_json(run.folder / "identity.json", run.identity)
        if run.model.keeps_answers:
            with ResponseStore(run.store) as store:
                store.forget_failures()
    words, started, clock = command(run, launch, attempt), datetime.now(timezone.utc), time.monotonic()
    log = attempt / "log.txt"
    code = run_module(words, log, on_poll=on_poll, preloaded=PRELOADED.get(launch.module, []))
    if code != 0:
        return f"lmms-eval ended with exit code {code}: {last_log_line(log)} (see {log})"
    if launch.machine_rank != 0:
        return None
    try:
        outcome = read_outcome(attempt, run.store if run.model.keeps_answers else None)
    except ResultError as error:
        return f"{error}; see {log}"
    write_records(run.folder / "questions.jsonl", outcome.questions)
    write_json(run.folder / "result.json", _manifest(run, launch, outcome, words, started, time.monotonic() - clock))
    return None


def _manifest(run: Run, launch: Launch, outcome: Outcome, words: list[str], started: datetime, seconds: float) -> dict:
    """Everything needed to trace the result; written last, so that its presence says the run is complete."""
    failures = [q.failure for q in outcome.questions if q.failure is not None]
    return {
        "identity": run.identity,
        "model": run.model.name,
        "setting": run.setting.name,
        "questions": len(outcome.questions),
        "failed": len(failures),
        "failures": sorted(set(failures))[:20],
        "scores": _scores(outcome),
        "harness_scores": outcome.harness_scores,
        "command": [sys.executable, "-m", *words],
        "processes": launch.processes,
        "machines": launch.machines,
        "started": started.isoformat(timespec="seconds"),
        "seconds_of_last_start": round(seconds, 1),
        **environment(),
    }


def _scores(outcome: Outcome) -> dict[str, float]:
    """Our score of each (sub)task in percent."""
    by_task: dict[str, list] = {}
    for question in outcome.questions:
        by_task.setdefault(question.task, []).append(question)
    found = {task: task_score(questions) for task, questions in by_task.items()}
    return {task: score for task, score in found.items() if score is not None}


@contextmanager
def _locked(folder: Path, launch: Launch):
    """Holds the sweep's lock, on machine 0."""
    if launch.machine_rank != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SweepError(f"Another process works on {folder}; wait for it, or use another --output.") from None
        yield


def command(run: Run, launch: Launch, attempt: Path) -> list[str]:
    """The words after `python -m` that run lmms-eval; results go to `attempt`."""
    return [*module_words(launch, launch.module), *harness_arguments(run, launch, attempt)]


def module_words(launch: Launch, module: str) -> list[str]:
    """The words after `python -m` that start a module: its name, behind a launcher where it runs several times."""
    if launch.world == 1:
        return [module]
    host, _, port = (launch.main_address or "").rpartition(":")
    if launch.launcher == "accelerate":
        several = ["--main_process_ip", host, "--main_process_port", port] if launch.machines > 1 else []
        return [
            "accelerate.commands.launch", "--num_processes", str(launch.world), "--num_machines",
            str(launch.machines), "--machine_rank", str(launch.machine_rank), *several, "-m", module,
        ]  # fmt: skip
    where = ["--standalone"]
    if launch.machines > 1:
        where = ["--nnodes", str(launch.machines), "--node_rank", str(launch.machine_rank)]
        where += ["--master_addr", host, "--master_port", port]
    return ["torch.distributed.run", "--nproc_per_node", str(launch.processes), *where, "-m", module]


def harness_arguments(run: Run, launch: Launch, attempt: Path) -> list[str]:
    """lmms-eval's own arguments. Without DEBUG it leaves with 0 after an exception."""
    arguments = [
        "--model", run.model.id, "--model_args", model_arguments(run, launch), "--tasks", run.task.name,
        "--batch_size", "1", "--seed", str(run.seed), "--output_path", str(attempt), "--log_samples",
        "--verbosity", "DEBUG",
    ]  # fmt: skip
    if run.limit is not None:
        arguments += ["--limit", str(run.limit)]
    if run.include_path:
        arguments += ["--include_path", str(Path(run.include_path).resolve())]
    if launch.device:
        arguments += ["--device", launch.device]
    return arguments


def model_arguments(run: Run, launch: Launch) -> str:
    """--model_args: checkpoint, the wrapper's arguments, the method's settings, the response store."""
    values: dict[str, Any] = {"pretrained": run.model.checkpoint, **run.arguments}
    if launch.device:
        values["device_map"] = "auto"  # with --device; either alone goes to the GPU
    if run.model.keeps_answers:
        values |= run.setting.aot_on(run.task.name) or {"retention": 1}  # 1 leaves every token
        values["store"] = str(run.store)
    return ",".join(f"{name}={_text(name, value)}" for name, value in values.items())


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
