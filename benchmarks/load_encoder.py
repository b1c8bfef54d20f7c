"""Attacks and load on the encoder's server: `python -m benchmarks.load_encoder`.

Starts the server as people start it, on loopback, on the embedded model, with a language model in this process that
answers at once. Tries what strangers send and what many send at a time, kills it, and starts it again. Prints a
table; exit code 1 when a row is not as it should be. Takes about two minutes; Linux only, since it looks into /proc.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np

from aot_tiny.shapes.clips import write_clip
from benchmarks.measure import process_status, running
from llava.serve.client import media_part

CHAT = "/v1/chat/completions"
TEXT = {"messages": [{"role": "user", "content": "What?"}]}
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
_POST = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n".encode()
_LENGTH = b"Content-Length: %d\r\n" % len(SMUGGLED)
_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
# head without its last line, and body: each must get one refusal, and the body must not become a request
TRICKS = {
    "unread body of a path that is not there": (b"POST /x HTTP/1.1\r\nHost: a\r\n" + _LENGTH, SMUGGLED),
    "unread body of another method": (b"PUT /health HTTP/1.1\r\nHost: a\r\n" + _LENGTH, SMUGGLED),
    "GET with a body": (b"GET /health HTTP/1.1\r\nHost: a\r\n" + _LENGTH, SMUGGLED),
    "GET with chunks": (b"GET /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", _CHUNK),
    "a length that is a word": (_POST + b"Content-Length: abc\r\n", SMUGGLED),
    "a length with an underscore": (_POST + b"Content-Length: 1_0\r\n", SMUGGLED),
    "a length with a sign": (_POST + b"Content-Length: +10\r\n", SMUGGLED),
    "a negative length": (_POST + b"Content-Length: -1\r\n", SMUGGLED),
    "a length of 5000 digits": (_POST + b"Content-Length: " + b"9" * 5000 + b"\r\n", SMUGGLED),
    "two lengths": (_POST + b"Content-Length: 2\r\n" + _LENGTH, SMUGGLED),
    "a list of lengths": (_POST + b"Content-Length: 2, 3\r\n", SMUGGLED),
    "chunks beside a length": (_POST + b"Transfer-Encoding: chunked\r\n" + _LENGTH, _CHUNK),
    "an encoding that is not known": (_POST + b"Transfer-Encoding: xchunked\r\n", _CHUNK),
    "a space before the colon": (_POST + b"Content-Length : 2\r\n", SMUGGLED),
    "a header that is folded": (_POST + b"Content-Length: 1\r\n 0\r\n", SMUGGLED),
}


class Model(BaseHTTPRequestHandler):
    """In the place of vLLM: says what its server is told to, and remembers the requests."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((dict(self.headers), json.loads(body)))
        self.do_GET()

    def do_GET(self):
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.says)

    def log_message(self, *arguments):
        pass


@contextmanager
def answering() -> Iterator[ThreadingHTTPServer]:
    """A language model that answers "Red."; status and says may be changed, heard are the requests."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        server.status, server.heard = 200, []
        server.says = json.dumps({"choices": [{"index": 0, "text": "Red."}]}).encode()
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def post(url: str, body, headers: dict | None = None, path: str = CHAT) -> tuple[int, dict, Message]:
    """(status, JSON, headers) of an answer. body: bytes, or what becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def ask_about(path) -> dict:
    """A chat request about a file."""
    return {"messages": [{"role": "user", "content": [media_part(path), {"type": "text", "text": "What?"}]}]}


def as_request(chat: dict) -> bytes:
    """The bytes of a POST."""
    body = json.dumps(chat).encode()
    return _POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def connect(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    pieces = []
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def try_trick(url: str, name: str) -> tuple[int, bytes]:
    """(how many answers came, all that came)."""
    head, body = TRICKS[name]
    with connect(url) as connection:
        connection.sendall(head + b"\r\n" + body)
        said = everything(connection)
    return said.count(b"HTTP/1.1 "), said


@dataclass
class Server:
    """A server in a process of its own. folder: its temporary one."""

    process: subprocess.Popen
    url: str
    folder: Path

    def status(self, name: str) -> int:
        """A number of /proc/PID/status, such as Threads, or VmRSS in kB."""
        return process_status(name, self.process.pid)

    def decoders(self) -> list[int]:
        """The processes that it has started and that live."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has just ended
                state, parent = stat.read_text().rpartition(")")[2].split()[:2]
                if int(parent) == self.process.pid and state != "Z":
                    found.append(int(stat.parent.name))
        return found

    def videos(self) -> list[Path]:
        """Files that lie in its temporary folder."""
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name != "lock"]


@contextmanager
def started(vllm: str, folder: Path) -> Iterator[Server]:
    """A server that answers."""
    program = "import sys, tempfile; tempfile.tempdir = sys.argv.pop(1)\n"
    program += "from llava.serve.encoder_server import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, str(folder), "--vllm", vllm, "--port", "0", "--device", "cpu"]
    with running(command) as (process, line):
        yield Server(process, line.split()[-1], folder)


def wait_for(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until it holds; `seconds` when it does not."""
    began = time.monotonic()
    while not condition() and time.monotonic() - began < seconds:
        time.sleep(0.05)
    return time.monotonic() - began


def write_slow_video(path: Path) -> Path:
    """5000 frames of noise as raw H.264, which has to be decoded as a whole: seconds of work in 27 MB."""
    rng = np.random.default_rng(0)
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt, codec.framerate, codec.gop_size = 1280, 720, "yuv420p", 25, 4
    codec.options = {"preset": "ultrafast", "crf": "51"}
    pictures = [av.VideoFrame.from_ndarray(rng.integers(0, 256, (720, 1280, 3), np.uint8)) for _ in range(8)]
    packets = [packet for picture in [*pictures, None] for packet in codec.encode(picture)]
    path.write_bytes(b"".join(bytes(packet) for packet in packets) * 625)
    return path


Row = tuple[str, str, bool]  # what was tried, what came of it, is it as it should be


def tricks(server: Server) -> Row:
    refused = [name for name in TRICKS if (found := try_trick(server.url, name))[0] == 1 and b" 40" in found[1][:14]]
    return f"{len(TRICKS)} smuggling tricks", f"{len(refused)} refused, once each", len(refused) == len(TRICKS)


def half_sent(server: Server, count: int) -> Row:
    threads, memory = server.status("Threads"), server.status("VmRSS")
    with ExitStack() as stack:
        halves = [stack.enter_context(connect(server.url)) for _ in range(count)]
        for half in halves:
            half.sendall(as_request(TEXT)[:-5])
        began = time.monotonic()
        answered = post(server.url, TEXT)[0] == 200
        meanwhile = time.monotonic() - began
        dropped = sum(everything(half).startswith(b"HTTP/1.1 408") for half in halves)
        seconds = time.monotonic() - began
    more, grown = server.status("Threads") - threads, (server.status("VmRSS") - memory) / 1024
    said = f"{dropped} dropped within {seconds:.0f} s, with {more} threads and {grown:.0f} MiB more. "
    said += f"Another request meanwhile {1e3 * meanwhile:.0f} ms"
    return f"{count} half-sent bodies", said, answered and dropped == count and more <= 4 and grown < 64


def at_once(server: Server, clips: list[Path]) -> Row:
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, len(server.decoders()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    with ThreadPoolExecutor(len(clips)) as pool:
        answers = [status for status, *_ in pool.map(lambda clip: post(server.url, ask_about(clip)), clips)]
    done.set()
    watcher.join()
    said = f"{answers.count(200)} answered in {time.monotonic() - began:.1f} s, at most {most} decoders at a time"
    name = f"{len(clips)} at once about {len(set(clips))} videos"
    return name, said, answers.count(200) == len(clips) and most <= 2


def gone(server: Server, slow: Path, model, count: int) -> Row:
    heard = len(model.heard)
    for number in range(count):  # bytes after the end of a stream do no harm and make another file
        copy = slow.with_name(f"gone{number}.mp4")
        copy.write_bytes(slow.read_bytes() + bytes([0] * number))
        with connect(server.url) as client:
            client.sendall(as_request(ask_about(copy)))
            wait_for(lambda: bool(server.decoders()), 20)
    seconds = wait_for(lambda: not server.decoders() and not server.videos(), 30)
    said = f"all work ended {seconds:.1f} s later, and {len(model.heard) - heard} asked of the language model"
    return f"{count} clients that go", said, seconds < 5 and len(model.heard) == heard


def long_text(server: Server) -> Row:
    memory, began = server.status("VmHWM"), time.monotonic()
    status, *_ = post(server.url, {"messages": [{"role": "user", "content": "a " * 2_000_000}]})
    seconds, grown = time.monotonic() - began, (server.status("VmHWM") - memory) / 1024
    right = status == 400 and seconds < 2 and grown < 64
    return "a text of 4 MB", f"{status} in {seconds:.2f} s, {grown:.0f} MiB more", right


def killed(server: Server, slow: Path, vllm: str) -> list[Row]:
    with connect(server.url) as client:
        client.sendall(as_request(ask_about(slow)))
        wait_for(lambda: bool(server.decoders()), 20)
        decoders = server.decoders()
        server.process.kill()
        server.process.wait(20)
    lived = wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in decoders), 5)
    left = len(server.videos())
    with started(vllm, server.folder) as again:
        answered, swept = post(again.url, TEXT)[0] == 200, not again.videos()
    children_said = f"{len(decoders)} decoders, gone after {lived:.1f} s" if lived < 5 else "decoders live on"
    return [
        ("kill -9 while decoding", children_said, lived < 5),
        ("the start after it", f"{left} videos left, {'none' if swept else 'still'} afterwards", swept and answered),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="load_encoder.py", description=__doc__.splitlines()[0])
    parser.add_argument("--half-sent", type=int, default=500, help="half-sent bodies (default 500)")
    parser.add_argument("--at-once", type=int, default=32, help="requests at a time (default 32)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, answering() as model:
        folder = Path(name)
        (temporary := folder / "temporary").mkdir()
        clips = [folder / f"clip{number}.mp4" for number in range(options.at_once // 4)]
        for number, clip in enumerate(clips):
            write_clip(clip, 60_000 + number)
        slow = write_slow_video(folder / "slow.mp4")
        with started(model.url, temporary) as server:
            rows = [
                tricks(server),
                half_sent(server, options.half_sent),
                at_once(server, clips * 4),
                gone(server, slow, model, 8),
                long_text(server),
                *killed(server, slow, model.url),
            ]
    print("| tried | came of it | |\n|---|---|---|")
    for tried, said, right in rows:
        print(f"| {tried} | {said} | {'as it should be' if right else 'WRONG'} |")
    return 0 if all(right for *_, right in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
