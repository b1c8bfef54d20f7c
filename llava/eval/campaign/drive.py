"""Runs what a campaign still lacks, run by run, and says openly what failed."""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from llava.eval.campaign.follow import Starter, last_words
from llava.eval.campaign.launch import Launch, command
from llava.eval.campaign.manifest import environment
from llava.eval.campaign.plan import Run, make_plan, write_json, write_plan
from llava.eval.campaign.preflight import check_installed
from llava.eval.campaign.progress import CampaignProgress
from llava.eval.campaign.results import Outcome, ResultError, read_outcome, task_score, write_questions
from llava.eval.campaign.run_state import run_state
from llava.eval.campaign.spec import Campaign, CampaignError
from llava.eval.campaign.store import ResponseStore
from llava.eval.campaign.tally import Tally


@dataclass(frozen=True)
class Summary:
    """How a campaign ended: runs that did not complete, with the reason, and failed questions by run."""

    folder: Path
    broken: dict[str, str]
    failed: dict[str, int]

    @property
    def ok(self) -> bool:
        return not self.broken and not self.failed


def run_campaign(campaign: Campaign, output: Path, launch: Launch, progress: CampaignProgress) -> Summary:
    """Runs what is missing and asks failed questions again; complete runs are left as they are.

    On machines other than 0 it only takes part: machine 0 writes the results. Raises CampaignError when another
    process works on the same campaign.
    """
    check_installed(campaign, launch)
    runs = make_plan(campaign, output)
    for run in runs:
        command(run, launch, run.folder)  # arguments that cannot be passed on are refused before any work
    folder = output / campaign.name
    states = {run.folder: run_state(run.folder) for run in runs}
    tally = Tally(_once(runs))
    broken: dict[str, str] = {}
    failed: dict[str, int] = {}
    with _alone(folder, launch), progress, Starter(launch) as starter:
        if launch.machine_rank == 0:
            write_plan(campaign, runs, output)
        for run in _once(runs):
            state = states[run.folder]
            if not (state.complete and state.failed == 0):
                reason = _run(run, launch, starter, lambda run=run: progress.show(run.name, *tally.count()))
                if launch.machine_rank == 0:
                    states[run.folder] = state = run_state(run.folder)
                if reason:
                    broken[run.name] = reason
                    progress.say(f"{run.name}: {reason}")
            if state.complete and state.failed:
                failed[run.name] = state.failed
                progress.say(f"{run.name}: {state.failed} of {state.questions} questions failed ({state.reason})")
    return Summary(folder, broken, failed)


def _once(runs: list[Run]) -> list[Run]:
    """The runs without those that are equal to one before them."""
    return list({run.folder: run for run in reversed(runs)}.values())[::-1]


def _run(run: Run, launch: Launch, starter: Starter, look: Callable[[], None]) -> str | None:
    """Runs one run, calling look() now and then; why it did not complete, or None."""
    attempt = run.folder / "attempts" / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}-{os.getpid()}"
    attempt.mkdir(parents=True)
    if launch.machine_rank == 0:
        write_json(run.folder / "identity.json", run.identity)
        if run.model.keeps_answers:
            with ResponseStore(run.store) as store:
                store.forget_failures()
    words, started, clock = command(run, launch, attempt), datetime.now(timezone.utc), time.monotonic()
    log = attempt / "log.txt"
    code = starter.follow(words, log, look)
    if code != 0:
        return f"lmms-eval ended with exit code {code}: {last_words(log)} (see {log})"
    if launch.machine_rank != 0:
        return None
    try:
        outcome = read_outcome(attempt, run.store if run.model.keeps_answers else None)
    except ResultError as error:
        return f"{error}; see {log}"
    write_questions(run.folder / "questions.jsonl", outcome.questions)
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
        "command": words,
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
def _alone(folder: Path, launch: Launch):
    """Holds the campaign's lock, on machine 0."""
    if launch.machine_rank != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CampaignError(f"Another process works on {folder}; wait for it, or use another --output.") from None
        yield
