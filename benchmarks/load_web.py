"""Load on the page: clients at the same time, mixed questions, a client whose files are broken.

    python benchmarks/load_web.py --questions 200 --clients 8 --output load            # the worker, in this process
    python benchmarks/load_web.py --questions 200 --clients 8 --output load --page     # the whole page, over HTTP

Every client has a video of its own and asks mixed questions at mixed retentions; the last client sends broken files
between its questions. Every answer is compared with what the same question gets in a session of its own, so an
answer about somebody else's video is found. Memory is that of the process that holds the model. Writes load.json and
load.png; exit code 1 when an answer was wrong, a broken file did anything but get one sentence, or memory grew.
"""

import contextlib
import json
import os
import platform
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from aot_cli.parser import Parser
from aot_tiny.shapes.clips import write_clip
from aot_tiny.shapes.questions import make_questions
from benchmarks.measure import process_status, running
from llava.chat.options import add_model_options, load_session
from llava.chat.session import ChatSession
from llava.chat.web_worker import Limits, Worker

RETENTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
WARM_UP = 0.3  # of the questions, after which memory is to be flat
GROWTH = 48.0  # MiB that memory may grow after it: above one visitor's video, far below a leak of one per question


@dataclass(frozen=True)
class Outcome:
    """What a question must get: (answer with all tokens, answer with the kept ones), and the kept tokens."""

    words: tuple[str, str]
    kept: int


class WorkerClient:
    """A visitor of a worker in this process."""

    def __init__(self, worker: Worker, key: str):
        self.worker, self.key = worker, key

    def look(self, path: str) -> str:
        """Gives a video; returns the sentence of a refusal, "" otherwise."""
        try:
            self.worker.look(self.key, path)
        except ValueError as error:
            return str(error)
        return ""

    def ask(self, question: str, retention: float) -> Outcome:
        exchange = self.worker.ask(self.key, question, retention)
        return Outcome((exchange.whole.text, exchange.reduced.text), exchange.reduced.after.visual)


class PageClient:
    """A visitor of the page, over HTTP."""

    def __init__(self, address: str):
        from gradio_client import Client

        self.client = Client(address, verbose=False)

    def look(self, path: str) -> str:
        from gradio_client import handle_file

        return re.sub(r"<[^>]*>", "", self.client.predict(handle_file(path), 10, api_name="/look")[0])

    def ask(self, question: str, retention: float) -> Outcome:
        status, whole, _, reduced, cost, *_ = self.client.predict(question, 100 * retention, api_name="/ask")
        if status:
            raise RuntimeError(status)
        return Outcome((whole, reduced), int(re.search(r"(\d+) of \d+ \(", cost)[1]))


def main() -> int:
    parser = Parser(prog="load_web.py", description="Questions of many clients to the page or its worker.")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--output", default="load", help="where the JSON and the plot go, without suffix")
    parser.add_argument("--page", action="store_true", help="through `aot web` and HTTP (needs Gradio)")
    add_model_options(parser)
    parser.set_defaults(max_new_tokens=8)
    options = parser.parse_args()
    if options.clients < 1 or options.questions < max(10, options.clients):
        parser.error("give at least one client, 10 questions, and one question for each client")
    session = load_session(options)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        plans = [make_plan(Path(folder), client, options) for client in range(options.clients)]
        truth = [expected(session, plan) for plan in plans]
        if options.page:
            address, pid = stack.enter_context(running_page(options))
            clients: list = [PageClient(address) for _ in plans]
        else:
            worker = Worker(session, Limits(visitors=options.clients, wait_seconds=600))
            pid, clients = "self", [WorkerClient(worker, str(client)) for client in range(options.clients)]
        report = drive(clients, plans, truth, broken_files(Path(folder)), lambda: process_status("VmRSS", pid) / 1024)
    report |= {
        "through": "page" if options.page else "worker",
        "clients": options.clients,
        "questions": options.questions,
        "host": f"{os.cpu_count()} CPU cores, {platform.machine()}, torch {torch.__version__}",
        "threads": torch.get_num_threads(),
    }
    output = Path(options.output)
    output.with_suffix(".json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    plot(report, output.with_suffix(".png"))
    print(json.dumps({key: value for key, value in report.items() if key != "memory"}))
    return 0 if not report["wrong"] and not report["broken_not_told"] and report["growth_mib"] <= GROWTH else 1


def make_plan(folder: Path, client: int, options) -> tuple[str, list[tuple[str, float]]]:
    """(path of the client's clip, its questions with their retentions); equal on every run."""
    path = folder / f"clip{client}.mp4"
    texts = [question.open_prompt() for question in make_questions(write_clip(path, 1000 + client))]
    rng = random.Random(client)
    count = options.questions // options.clients + (client < options.questions % options.clients)
    return str(path), [(rng.choice(texts), rng.choice(RETENTIONS)) for _ in range(count)]


def expected(session: ChatSession, plan: tuple[str, list[tuple[str, float]]]) -> list[Outcome]:
    """Each answer of a plan, from a session that nobody shares and that knows nothing of workers."""
    path, questions = plan
    alone = replace(session, loaded=None, turns=[], answers=[])
    alone.set_video(path)
    known: dict[tuple[str, float], Outcome] = {}
    for question, retention in set(questions):
        alone.forget()
        alone.set_retention(retention)
        whole, reduced = alone.compare(question)
        known[question, retention] = Outcome((whole.text, reduced.text), reduced.after.visual)
    return [known[question] for question in questions]


def broken_files(folder: Path) -> list[str]:
    """Files that are no videos: empty, text, and a clip cut in the middle."""
    whole = (folder / "clip0.mp4").read_bytes()
    contents = {"empty": b"", "text": b"no video\n" * 500, "cut": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (folder / f"{name}.mp4").write_bytes(content)
    return [str(folder / f"{name}.mp4") for name in contents]


def drive(clients: list, plans: list, truth: list, broken: list[str], measure: Callable[[], float]) -> dict:
    """Lets all clients ask at once; returns the figures."""
    begin, lock, started = threading.Barrier(len(clients)), threading.Lock(), time.perf_counter()
    waits: list[float] = []
    samples: list[tuple[int, float]] = []
    wrong: list[str] = []
    told: list[str] = []

    def visit(number: int) -> None:
        client, (path, questions) = clients[number], plans[number]
        begin.wait()
        refused = client.look(path)
        for turn, (question, right) in enumerate(zip(questions, truth[number], strict=True)):
            if number == len(clients) - 1:
                told.append(client.look(broken[turn % len(broken)]))
            before = time.perf_counter()
            got = client.ask(*question)
            with lock:
                waits.append(time.perf_counter() - before)
                samples.append((len(waits), measure()))
                if got != right or refused:
                    wrong.append(f"client {number}, {question}: {got} instead of {right}; {refused}")

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(visit, range(len(clients))))
    waits.sort()
    warm = [mib for number, mib in samples if number > WARM_UP * len(samples)]
    half = len(warm) // 2
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "wait_s": {"median": round(waits[len(waits) // 2], 3), "longest": round(waits[-1], 3)},
        "wrong": wrong,
        "broken_files": len(told),
        "broken_not_told": sum(not text or len(text.splitlines()) != 1 or "Traceback" in text for text in told),
        "growth_mib": round(sum(warm[half:]) / len(warm[half:]) - sum(warm[:half]) / max(1, half), 1),
        "memory": samples,
    }


@contextlib.contextmanager
def running_page(options) -> Iterator[tuple[str, int]]:
    """(address, process number) of `aot web` in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "aot_cli", "web", "--port", str(port), "--max-new-tokens"]
    command += [str(options.max_new_tokens), *(["--model-path", options.model_path] if options.model_path else [])]
    with running([*command, "--device", options.device or "cpu"]) as (process, _):
        yield f"http://127.0.0.1:{port}", process.pid


def plot(report: dict, path: Path) -> None:
    """Memory against answered questions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4))
    ax = figure.add_subplot()
    answered, mib = zip(*report["memory"], strict=True)
    ax.plot(answered, mib, color="#0072B2")
    ax.axvline(WARM_UP * len(report["memory"]), color="#8A8A8A", ls="--", label="end of the warm-up")
    ax.set(xlabel="questions answered", ylabel="memory of the process, MiB", ylim=(0, 1.2 * max(mib)))
    ax.set_title(f"{report['clients']} clients, {report['questions']} questions, through the {report['through']}")
    ax.legend(loc="lower right")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
