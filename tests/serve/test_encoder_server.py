"""The encoder's server against what strangers send: framing, size, time, load, and a language model that fails."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from aot import AOTConfig
from benchmarks.load_encoder import (
    CHAT,
    SMUGGLED,
    TEXT,
    TRICKS,
    answering,
    as_request,
    ask_about,
    connect,
    everything,
    post,
    try_trick,
)
from llava.chat.session import ChatSession
from llava.model.builder import load_pretrained_model
from llava.serve.encoder import PromptEncoder
from llava.serve.encoder_pool import SingleFlight
from llava.utils import scratch_folder

pytest.importorskip("starlette", reason="starlette is not installed; pip install -e '.[serve]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed; pip install -e '.[serve]'")

from llava.serve import guard  # noqa: E402
from llava.serve.encoder_app import Limits, encoder_app  # noqa: E402
from tests.serve.servers import serving  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model():
    with answering() as server:
        yield server


@pytest.fixture(scope="module")
def encoder(checkpoint):
    tokenizer, model, processor, context = load_pretrained_model(
        checkpoint, None, "tiny", device_map="cpu", torch_dtype="float32"
    )
    return PromptEncoder(ChatSession(model, tokenizer, processor, context, compression=AOTConfig()))


@pytest.fixture
def url(encoder, model):
    with serving(encoder, model.url) as address:
        yield address


@pytest.mark.parametrize("trick", TRICKS)
def test_a_body_never_becomes_the_next_request(url, trick, monkeypatch):
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.5)
    count, said = try_trick(url, trick)
    assert count == 1, said
    status, answer = int(said.split()[1]), json.loads(said.partition(b"\r\n\r\n")[2])
    assert 400 <= status < 500 and answer["error"]["code"] == status


def test_requests_on_one_connection_are_answered_in_turn(url):
    request = json.dumps(TEXT).encode()
    with connect(url) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(request)}\r\n\r\n".encode()
        connection.sendall((head + request) * 2 + SMUGGLED)
        said = everything(connection)
    assert said.count(b"HTTP/1.1 200") == 3 and said.count(b"Red.") == 2


@pytest.mark.parametrize("start", [b"", b"GET /hea", b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"])
def test_what_is_sent_by_half_is_dropped(encoder, model, start, monkeypatch):
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.5)
    with serving(encoder, model.url, limits=Limits(body_silence=0.3)) as url, ExitStack() as stack:
        post(url, TEXT)
        threads = threading.active_count()
        halves = [stack.enter_context(connect(url)) for _ in range(50)]
        for half in halves:
            half.sendall(start.replace(b"%s", CHAT.encode()))
        assert post(url, TEXT)[0] == 200
        assert threading.active_count() <= threads + 4  # of the server's own pools
        for half in halves:
            assert everything(half)[:12] == (b"HTTP/1.1 408" if start.endswith(b"{") else b"")


def test_a_body_that_drips_ends_too(encoder, model):
    with serving(encoder, model.url, limits=Limits(body_silence=5, body_seconds=0.6)) as url, connect(url) as slow:
        slow.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n".encode())
        for _ in range(10):
            slow.sendall(b" ")
            time.sleep(0.1)
        assert slow.recv(65536).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("framing", ["Content-Length: %d", "Transfer-Encoding: chunked"])
def test_a_body_that_is_too_large(encoder, model, framing):
    body = json.dumps({"messages": [], "more": "a" * 100_000}).encode()
    with serving(encoder, model.url, limits=Limits(megabytes=0.05)) as url, connect(url) as connection:
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n" + framing.replace("%d", str(len(body))) + "\r\n\r\n"
        connection.sendall(head.encode() + (chunks if "chunked" in framing else body) + SMUGGLED)
        said = everything(connection)
    assert said.startswith(b"HTTP/1.1 413") and b"50000 bytes" in said
    assert said.count(b"HTTP/1.1 200") == 1, "what follows the body is a request of its own"


def test_bytes_of_all_requests_together_are_bounded(encoder, model):
    with serving(encoder, model.url, limits=Limits(held_megabytes=0.05)) as url:
        with connect(url) as first:
            first.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n".encode() + b" " * 40_000)
            time.sleep(0.3)
            status, answer, headers = post(url, b" " * 20_000)
            assert status == 503 and int(headers["Retry-After"]) > 0 and "busy" in answer["error"]["message"]
        time.sleep(0.3)
        assert post(url, b" " * 20_000)[0] == 400  # there is room again, and it is no JSON


def test_requests_at_a_time_are_bounded(encoder, model, clip, monkeypatch):
    go_on, begun, read = threading.Event(), threading.Semaphore(0), encoder.read

    def slow(*arguments):
        begun.release()
        go_on.wait(20)
        return read(*arguments)

    monkeypatch.setattr(encoder, "read", slow)
    with serving(encoder, model.url, limits=Limits(requests=2)) as url, ThreadPoolExecutor(2) as pool:
        working = [pool.submit(post, url, ask_about(clip) | {"user": str(i)}) for i in range(2)]
        begun.acquire(timeout=20)
        while (answer := post(url, TEXT))[0] == 200:  # the second has not come yet
            time.sleep(0.02)
        assert answer[0] == 503 and int(answer[2]["Retry-After"]) > 0
        go_on.set()
        assert [future.result()[0] for future in working] == [200, 200]
        assert post(url, TEXT)[0] == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON"),
        (b"[]", "JSON"),
        (b'{"messages": ' + b"[" * 100_000, "JSON"),
        (b'{"messages": [], "a": ' + b"[" * 900 + b"]" * 900 + b"}", "JSON|last message"),
        (b'{"messages": [{"role": ' + b"[" * 900 + b"]" * 900 + b"}]}", "JSON|role list"),
        (b'{"messages": [], "temperature": NaN}', "JSON"),
        (b'{"messages": [], "temperature": %s}' % (b"9" * 5000), "JSON"),
        (b"\xff\xfe", "JSON"),
        (b'{"messages": {}}', "list of messages"),
        (b'{"messages": [' + b"{}," * 200_000 + b"{}]}", "more than 100000 values"),  # 24 times as much in memory
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
        (b'{"messages": [{"role": "\\ud800", "content": ""}]}', "role"),
        (b'{"max_tokens": "many", "messages": [{"role": "user", "content": "a"}]}', "whole number"),
        (b'{"max_tokens": -1, "messages": [{"role": "user", "content": "a"}]}', "whole number"),
        (b'{"max_tokens": 1000000, "messages": [{"role": "user", "content": "a"}]}', "context holds 4096"),
        (b'{"messages": [{"role": "user", "content": "%s"}]}' % (b"a " * 5000), "context holds 4096"),
        (b'{"messages": [{"role": "user", "content": "%s"}]}' % (b"a " * 2_000_000), "4000000 letters"),
    ],
)
def test_requests_that_make_no_sense(url, model, body, words):
    started = time.perf_counter()
    status, answer, _ = post(url, body)
    assert status == 400 and re.search(words, answer["error"]["message"]), answer
    assert set(answer["error"]) == {"message", "type", "param", "code"} and not model.heard
    assert time.perf_counter() - started < 2, "the length is known before anything is embedded"


def test_a_lone_surrogate_elsewhere_is_passed_on_and_comes_back(url, model):
    model.says = json.dumps({"choices": [{"index": 0, "text": "\ud800"}]}).encode()
    status, answer, _ = post(url, TEXT | {"user": "\ud800"})
    assert status == 200 and answer["choices"][0]["message"]["content"] == "\ud800"
    assert model.heard[0][1]["user"] == "\ud800"


@pytest.mark.parametrize(
    ("status", "says", "expected", "words"),
    [
        (200, b"[]", 502, "JSON object"),
        (200, b"<html>", 502, "JSON object"),
        (200, b'{"choices": [{}]}', 502, "completion"),
        (200, b'{"choices": 3}', 502, "completion"),
        (404, b"<html>/srv/model is not there</html>", 502, "answered 404"),
        (500, b'{"error": {"message": "in /srv/vllm"}}', 502, "answered 500"),
        (302, b"", 502, "answered 302"),
        (400, b'{"error": {"message": "That is too long."}}', 400, "too long"),
        (401, b'{"error": "No key."}', 502, "answered 401"),
        (429, b'{"message": "Slower."}', 429, "Slower"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_the_language_model_says_wrong(url, model, status, says, expected, words, streamed):
    model.status, model.says = status, says
    if streamed and status == 200:
        words = "broke off"  # nothing of it is an event
    code, answer, _ = post(url, TEXT | {"stream": streamed})
    assert code == expected and words in answer["error"]["message"] and "/srv" not in answer["error"]["message"]


def test_no_language_model_is_a_bad_gateway(encoder):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with serving(encoder, nobody) as url:
        assert post(url, TEXT)[0] == 502 and post(url, TEXT | {"stream": True})[0] == 502
        assert post(url, None, path="/v1/models")[0] == 405


@pytest.mark.parametrize(
    ("vllm", "key", "told"),
    [
        ("localhost:8001", None, "no address of a server"),
        ("ftp://localhost", None, "no address of a server"),
        ("http://", None, "no address of a server"),
        ("http://localhost:99999", None, "no address of a server"),
        ("http://[::1", None, "no address of a server"),
        ("http://localhost:8001", "", "API key is empty"),
        ("http://localhost:8001", " ", "API key is empty"),
    ],
)
def test_settings_that_would_fail_or_open_the_door_later_are_refused(encoder, vllm, key, told):
    with pytest.raises(ValueError, match=told) as error:
        encoder_app(encoder, vllm, api_key=key)
    assert "\n" not in str(error.value)


def test_the_api_key_is_asked_for_and_passed_on(encoder, model):
    with serving(encoder, model.url, api_key="right") as url:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "right"},
            {"Authorization": "Bearer é"},
        ):
            status, answer, said = post(url, TEXT, headers)
            assert status == 401 and said["WWW-Authenticate"] == "Bearer" and "API key" in answer["error"]["message"]
        assert not model.heard
        assert post(url, TEXT, {"Authorization": "Bearer right"})[0] == 200
        assert model.heard[0][0]["Authorization"] == "Bearer right"
        assert urllib.request.urlopen(f"{url}/health", timeout=20).status == 200


def test_broken_videos_and_a_temporary_folder_that_is_gone(encoder, model, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with serving(encoder, model.url) as url:
        status, answer, _ = post(url, ask_about(broken))
        assert status == 400 and answer["error"]["message"].startswith("The video is not a video")
        (base,) = tmp_path.glob("aot-encoder-*")
        (folder,) = (path for path in base.iterdir() if path.is_dir())
        assert not list(folder.iterdir())
        folder.rmdir()
        status, answer, _ = post(url, ask_about(clip))
        assert status == 503 and str(tmp_path) not in answer["error"]["message"]
    assert [path.name for path in base.iterdir()] == ["lock"]


def test_a_mistake_of_the_program_is_an_answer_too(encoder, model, clip, monkeypatch):
    monkeypatch.setattr(encoder, "encode", lambda video: 1 / 0)
    with serving(encoder, model.url) as url:
        status, answer, _ = post(url, ask_about(clip))
        assert status == 500 and "ZeroDivision" not in json.dumps(answer)
        assert post(url, TEXT)[0] == 200


def test_a_video_that_many_ask_about_is_encoded_once(encoder, model, clip, monkeypatch):
    calls, encode = [], encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda video: calls.append(1) or encode(video))
    with serving(encoder, model.url) as url, ThreadPoolExecutor(8) as pool:
        assert {status for status, *_ in pool.map(lambda i: post(url, ask_about(clip)), range(8))} == {200}
    assert len(calls) == 1


def test_work_for_clients_that_have_gone_ends(encoder, model, clip, other_clip, monkeypatch):
    """One decoder: of two clients that leave, one waits for it and the other holds it."""
    begun, ended, stops = threading.Event(), threading.Event(), []

    def endless(data, folder, stopped):
        stops.append(stopped)
        begun.set()
        assert stopped.wait(20)
        ended.set()
        raise RuntimeError("nobody hears this")

    monkeypatch.setattr(encoder, "read", endless)
    with serving(encoder, model.url, limits=Limits(decoders=1, requests=2)) as url:
        with ExitStack() as stack:
            for path in (clip, other_clip):
                stack.enter_context(connect(url)).sendall(as_request(ask_about(path)))
                assert begun.wait(20)
            while post(url, TEXT)[0] == 200:
                time.sleep(0.02)
        assert ended.wait(20)
        while post(url, TEXT)[0] == 503:  # both places are free again
            time.sleep(0.02)
    assert len(stops) == 1, "the one that waited has not begun"


def test_shared_work_goes_on_while_anybody_waits():
    async def run() -> tuple[list, list]:
        shared, started, finished, go_on = SingleFlight(1), [], [], asyncio.Event()

        async def work():
            started.append(1)
            await go_on.wait()
            finished.append(1)
            return "done"

        first, second = (asyncio.create_task(shared.get("a", work)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        go_on.set()
        results = [await second]
        go_on.clear()
        alone = asyncio.create_task(shared.get("b", work))
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        go_on.set()
        results.append(await shared.get("b", work))
        results.append(await shared.get("a", work))  # was forgotten for b
        return started, finished, results

    started, finished, results = asyncio.run(run())
    assert results == ["done"] * 3 and (len(started), len(finished)) == (4, 3)


def test_folders_of_killed_servers_are_swept_and_those_in_use_are_not(tmp_path, monkeypatch):
    program = """if True:
        import runpy, sys, tempfile, time
        tempfile.tempdir = sys.argv[1]
        with runpy.run_path("llava/utils.py")["scratch_folder"]("x") as folder:
            (folder / "video").touch()
            print(folder, flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    killed, alive = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2))
    try:
        left, used = (Path(process.stdout.readline().strip()) for process in (killed, alive))
        killed.send_signal(signal.SIGKILL)
        killed.wait(20)
        assert (left / "video").exists()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with scratch_folder("x") as folder:
            assert not left.exists() and (used / "video").exists() and folder.stat().st_mode & 0o077 == 0
        assert not folder.exists()
    finally:
        alive.kill()
        alive.wait(20)
