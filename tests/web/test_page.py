"""The page over HTTP, without a browser: who is a visitor, what may be uploaded, and what is left at the end."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from llava.chat.web_worker import NO_SESSION
from tests.serve.conftest import picture, write_checkpoint, write_video

pytest.importorskip("gradio", reason="gradio is not installed; scripts/test_web.sh installs it")

import httpx  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """if True:
    import sys, tempfile
    tempfile.tempdir = sys.argv.pop(1)
    from llava.chat import web_uploads
    web_uploads.UNUSED_SECONDS, web_uploads.SILENCE_SECONDS, web_uploads.SWEEP_SECONDS = 3.0, 1.0, 0.5
    from aot_cli.main import main
    sys.exit(main(["web", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """(address, folder of uploads, process) of a page for 16 visitors with 1 MB each."""
    folder = tmp_path_factory.mktemp("temporary")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")
    command = [sys.executable, "-c", PROGRAM, str(folder), "--model-path", checkpoint, "--device", "cpu"]
    command += ["--port", str(port), "--max-mb", "1", "--max-new-tokens", "4"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert "open http" in process.stdout.readline()
        (uploads,) = (path for path in next(folder.glob("aot-web-*")).iterdir() if path.is_dir())
        yield f"http://127.0.0.1:{port}", uploads, process
    finally:
        process.kill()
        process.wait(20)


def upload(address, *contents: bytes) -> httpx.Response:
    files = [("files", (f"{number}.mp4", content)) for number, content in enumerate(contents)]
    return httpx.post(f"{address}/gradio_api/upload", files=files, timeout=30)


def call(address, name: str, values: list, session: str | None = None) -> list:
    """What the page answers a call with."""
    body = {"data": values} | ({"session_hash": session} if session else {})
    started = httpx.post(f"{address}/gradio_api/call/{name}", json=body, timeout=30).json()
    said = httpx.get(f"{address}/gradio_api/call/{name}/{started['event_id']}", timeout=60).text
    return json.loads(said.partition("data: ")[2])


def files(folder: Path) -> list[Path]:
    return [Path(place) / name for place, _, names in os.walk(folder) for name in names]


def wait_until_empty(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while files(folder):
        assert time.monotonic() < deadline, files(folder)
        time.sleep(0.1)


def test_calls_without_a_session_are_refused_and_see_nobodys_video(page, tmp_path):
    address, *_ = page
    clip = Path(write_video(tmp_path / "clip.mp4")).read_bytes()
    video = {"path": upload(address, clip).json()[0], "meta": {"_type": "gradio.FileData"}}
    assert "0.mp4: 2.0 s" in call(address, "look", [video, 10], "mine")[1]
    for name, values in (("look", [video, 10]), ("show", [video, 10]), ("ask", ["What?", 10])):
        assert NO_SESSION in call(address, name, values)[0]
        direct = httpx.post(f"{address}/gradio_api/run/{name}", json={"data": values}, timeout=30).json()
        assert NO_SESSION in direct["data"][0]
    assert "no video yet" in call(address, "ask", ["What?", 10], "another")[0]
    status, *_, cost, _, stale = call(address, "ask", ["What?", 10], "mine")
    assert status == stale == "" and "of 288" in cost
    assert "10 % of the tokens, the picture shows 16 %" in call(address, "show", [video, 16], "mine")[2]
    assert call(address, "show", [video, 10], "mine")[2] == ""
    time.sleep(4)
    assert Path(video["path"]).exists(), "a visitor looks at it"
    call(address, "look", [None, 10], "mine")
    wait_until_empty(page[1])


def test_live_calls_belong_to_a_visitor_and_pictures_are_decoded_elsewhere(page, tmp_path):
    address, folder, _ = page

    def shown(name: str) -> dict:
        file = io.BytesIO()
        Image.fromarray(picture(1, 48, 64)).save(file, name)
        return {"url": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}

    def watch(shown: dict, session: str | None = None) -> list:
        """One picture; a call by the queue would wait for the next one."""
        body = {"data": [shown]} | ({"session_hash": session} if session else {})
        return httpx.post(f"{address}/gradio_api/run/watch", json=body, timeout=60).json()["data"]

    assert NO_SESSION in watch(shown("JPEG"))[0]
    for name, values in (("ask_live", ["What?"]), ("tick", [])):
        assert NO_SESSION in call(address, name, values)[0]
    assert "Nothing is watched" in call(address, "ask_live", ["What?"], "mine")[0]
    for number in ("1 frame", "2 frames"):
        status, about = watch(shown("JPEG"), "mine")
        assert status == "" and f"{number}; at most 288 visual tokens" in about
    for bad, words in ((shown("GIF"), "The picture cannot be read"), ({"url": "data:image/jpeg;base64,@"}, "base64")):
        assert words in watch(bad, "mine")[0]
    status, answer, cost = call(address, "ask_live", ["What?"], "mine")
    assert status == "" and answer.startswith("[0:0") and "of 72" in cost
    assert "Nothing is watched" in call(address, "ask_live", ["What?"], "another")[0]
    clip = Path(write_video(tmp_path / "clip.mp4")).read_bytes()
    film = {"path": upload(address, clip).json()[0], "meta": {"_type": "gradio.FileData"}}
    assert call(address, "play", [film], "mine")[0] == ""
    deadline = time.monotonic() + 60
    while "2 frames" not in (said := call(address, "tick", [], "mine"))[1]:
        assert said[0] == "" and time.monotonic() < deadline, said
        time.sleep(0.2)
    assert call(address, "ask_live", ["What?"], "mine")[1].startswith("[0:00:01]")
    call(address, "play", [None], "mine")
    assert "Nothing is watched" in call(address, "tick", [], "mine")[0]
    wait_until_empty(folder)


def test_uploads_have_a_quota(page):
    address, folder, _ = page
    assert upload(address, bytes(2_000_000)).status_code == 413
    refused = upload(address, bytes(17_000_000))
    assert refused.status_code == 503 and "no room" in refused.text and refused.headers["Retry-After"]
    assert upload(address, *(str(number).encode() for number in range(64))).status_code == 200
    assert upload(address, b"one more").status_code == 503
    chunks = httpx.post(f"{address}/gradio_api/upload", content=iter([b"a"]), timeout=30)
    assert chunks.status_code == 411
    wait_until_empty(folder)
    assert upload(address, b"there is room again").status_code == 200
    wait_until_empty(folder)


@pytest.mark.parametrize("name", ["look", "play"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_server_fetches_nothing(page, name, scheme):
    address, folder, _ = page
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(2)
        place = f"{scheme}://localhost:{elsewhere.getsockname()[1]}/a.mp4"
        given = {"path": place, "meta": {"_type": "gradio.FileData"}}
        said = call(address, name, [given, 10] if name == "look" else [given], session="s")
        assert not files(folder) and "uploaded" in json.dumps(said)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_other_requests_have_a_limit(page):
    address, *_ = page
    assert httpx.post(f"{address}/gradio_api/call/ask", content=bytes(16_000_001), timeout=30).status_code == 413
    with contextlib.suppress(httpx.TransportError):  # it may be cut off before it has sent all
        chunks = (bytes(1_000_000) for _ in range(40))
        assert httpx.post(f"{address}/gradio_api/call/ask", content=chunks, timeout=30).status_code >= 400


@pytest.mark.parametrize("leaves", [True, False])
def test_uploads_that_break_off_leave_nothing(page, leaves):
    address, folder, _ = page
    host, _, port = address.removeprefix("http://").partition(":")
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n' + bytes(100_000)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 500000\r\n"
    halves = [socket.create_connection((host, int(port))) for _ in range(20)]
    for half in halves:
        half.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + part)
    time.sleep(0.5)
    assert len(files(folder)) == 20
    for half in halves if leaves else ():
        half.close()
    wait_until_empty(folder)
    for half in halves:
        half.close()


def test_nothing_is_left_when_the_page_is_ended(page):
    address, folder, process = page
    upload(address, b"left")
    assert files(folder)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0 and not folder.exists()
