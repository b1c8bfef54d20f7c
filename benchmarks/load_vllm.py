"""Load on a vLLM server: clients at the same time, videos and pictures mixed, with and without compression.

    aot convert checkpoints/aot-tiny aot-tiny-hf
    python benchmarks/load_vllm.py aot-tiny-hf --output load -- --dtype float32 --enforce-eager

Starts two servers that differ in the compression alone and asks them in turns, a round each, so that whatever else
the machine does weighs on both; --urls COMPRESSED WHOLE asks two that are running already. Every server is asked
about a video once, so that no cache answers, and every answer has the same length. Requests a second are the median
of the rounds; processor time is what all processes of a server used for a request, which other work on the machine
does not lengthen (servers started here). Writes OUTPUT.json and prints a table; exit code 1 when a request
failed.
"""

import contextlib
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import psutil
from PIL import Image

from aot_cli.parser import Parser
from aot_tiny.shapes.clips import write_clip
from aot_tiny.shapes.questions import make_questions
from llava.serve.client import Reply, ServerError, ask, media_part
from llava.video import load_video

FIRST_CLIP = 40_000  # none of the exam's, none of the training's
PATIENCE = 600  # seconds for a server to start


@dataclass
class Request:
    """kind: "video" or "image". part: the file as it is sent. outcome: a reply, or the sentence of a failure."""

    kind: str
    part: dict
    question: str
    outcome: Reply | str = ""


def make_requests(folder: Path, count: int, *, first: int, images: float, seed: int) -> list[Request]:
    """Requests about clips numbered from `first`, and, for the share `images`, about a frame as a picture."""
    rng, requests = random.Random(seed), []
    for number in range(first, first + count):
        path = folder / f"clip{number}.mp4"
        clip = write_clip(path, number)
        question = rng.choice(make_questions(clip)).open_prompt()
        kind = "image" if rng.random() < images else "video"
        if kind == "image":
            frame = load_video(path, num_frames=1).frames[0]
            path = folder / f"picture{number}.png"
            Image.fromarray(frame).save(path)
        requests.append(Request(kind, media_part(path), question))
    return requests


def drive(url: str, requests: list[Request], *, clients: int, new_tokens: int) -> float:
    """Seconds until all requests have an outcome, `clients` at any time."""

    def send(request: Request) -> None:
        settings = {"max_tokens": new_tokens, "model": "load", "ignore_eos": True}
        try:
            request.outcome = ask(url, [request.part], request.question, **settings)
        except ServerError as error:
            request.outcome = str(error)

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(send, requests))
    return time.perf_counter() - started


def processor_seconds(server: psutil.Process | None) -> float:
    """Processor time of a server and all it has started so far; 0 for one that was not started here."""
    total = 0.0
    for process in (server, *server.children(recursive=True)) if server else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def figures(seconds: list[float], processor: float, requests: list[Request]) -> dict:
    """What came of the requests, and the measured figures by name. seconds: of each round."""
    answered = [request for request in requests if isinstance(request.outcome, Reply)]
    replies = [request.outcome for request in answered]
    videos = [request.outcome for request in answered if request.kind == "video"]
    measured = {
        "requests a second": round(len(requests) / len(seconds) / float(np.median(seconds)), 3),
        "processor time of a request, ms": round(1e3 * processor / len(requests), 1),
        "prompt of a video, tokens": round(float(np.mean([reply.prompt_tokens for reply in videos] or [0])), 1),
    }
    for name, times in (
        ("first token, ms", [reply.first for reply in replies]),
        ("first token of videos, ms", [reply.first for reply in videos]),
        ("whole answer, ms", [reply.total for reply in replies]),
    ):
        for q in (50, 95, 99):
            measured[f"{name}, p{q}"] = round(float(np.percentile(times or [0], q)), 1)
    return {
        "requests": len(requests),
        "videos": len(videos),
        "failed": [request.outcome for request in requests if request not in answered],
        "seconds": [round(value, 2) for value in seconds],
        "measured": measured,
    }


def table(compressed: dict[str, float], whole: dict[str, float]) -> str:
    """The figures of the two servers side by side, with the ratio of compressed to whole."""
    lines = ["| | compressed | all tokens | ratio |", "|---|---|---|---|"]
    for name, b in whole.items():
        a = compressed[name]
        lines.append(f"| {name} | {a:g} | {b:g} | {a / b:.2f} |" if b else f"| {name} | - | - | - |")
    return "\n".join(lines)


@contextlib.contextmanager
def server(model: str, port: int, arguments: list[str], log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """(address, process) of a server in processes of its own."""
    command = [sys.executable, "-m", "llava.serve.vllm", model, "--port", str(port), "--served-model-name", "load"]
    with log.open("w") as out:
        process = subprocess.Popen([*command, *arguments], stdout=out, stderr=out, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Until the server answers; RuntimeError with the end of its log when it ends or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urlopen(f"{url}/health", timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(1)
    raise RuntimeError(f"The server did not start:\n{log.read_text()[-2000:]}")


def measure(servers: list[tuple[str, psutil.Process | None]], folder: Path, options) -> tuple[dict, dict]:
    """Figures of the compressed server and of the other; servers: address and process of each."""
    warm = make_requests(folder, 2, first=FIRST_CLIP - 2, images=0.5, seed=1)
    for url, _ in servers:
        drive(url, warm, clients=1, new_tokens=options.new_tokens)
    seconds, used, asked = ([], []), [0.0, 0.0], ([], [])
    for number in range(options.rounds):
        first = FIRST_CLIP + number * options.requests
        requests = make_requests(folder, options.requests, first=first, images=options.images, seed=number)
        for side in (0, 1) if number % 2 else (1, 0):
            url, process = servers[side]
            mine = [replace(request) for request in requests]
            before = processor_seconds(process)
            seconds[side].append(drive(url, mine, clients=options.clients, new_tokens=options.new_tokens))
            used[side] += processor_seconds(process) - before
            asked[side].extend(mine)
    compressed, whole = (figures(*side) for side in zip(seconds, used, asked, strict=True))
    return compressed, whole


def main() -> int:
    parser = Parser(prog="load_vllm.py", description="Load on vLLM, with and without compression.", allow_abbrev=False)
    add = parser.add_argument
    add("model", help="checkpoint in the layout of transformers")
    add("--urls", nargs=2, metavar="URL", help="a compressed server and one without, both named load")
    add("--retention", type=float, default=0.1)
    add("--frames", type=int, help="frames of a video (default: the model's)")
    add("--clients", type=int, default=8)
    add("--rounds", type=int, default=4, help="rounds for each server (default 4)")
    add("--requests", type=int, default=32, help="requests of a round (default 32)")
    add("--images", type=float, default=0.25, help="share of requests about a picture (default 0.25)")
    add("--new-tokens", type=int, default=16, help="length of every answer (default 16)")
    add("--port", type=int, default=8200, help="of the first server; the second has the next (default 8200)")
    add("--output", default="load_vllm", help="where the JSON and the servers' logs go, without suffix")
    options, rest = parser.parse_known_args()
    rest = [argument for argument in rest if argument != "--"]
    with TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        servers = [(url, None) for url in options.urls or ()]
        if not servers:
            frames = ["--frames", str(options.frames)] if options.frames else []
            for number, retention in enumerate((options.retention, 1.0)):
                log = Path(f"{options.output}-server{number}.log")
                arguments = ["--retention", str(retention), *frames, *rest]
                servers.append(stack.enter_context(server(options.model, options.port + number, arguments, log)))
        compressed, whole = measure(servers, folder, options)
    report = {
        "compressed": compressed,
        "whole": whole,
        "clients": options.clients,
        "new_tokens": options.new_tokens,
        "frames": options.frames,
        "retention": options.retention,
        "host": f"{os.cpu_count()} CPU cores, {platform.machine()}",
    }
    Path(f"{options.output}.json").write_text(json.dumps(report, indent=1))
    print(table(compressed["measured"], whole["measured"]))
    for error in compressed["failed"] + whole["failed"]:
        print(error, file=sys.stderr)
    return 1 if compressed["failed"] or whole["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
