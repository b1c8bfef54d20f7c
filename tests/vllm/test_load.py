"""The load test against servers that answer at once, one of them with errors."""

import json
import sys
import threading
from http.server import ThreadingHTTPServer

import pytest

from benchmarks import load_vllm
from tests.replying import Replying


class Stub(Replying):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = body["messages"][0]["content"][0]["type"]
        self.server.asked.append(kind)
        if len(self.server.asked) == self.server.fails_at:
            self.reply(b'{"error": {"message": "No room."}}', 400)
            return
        usage = {"prompt_tokens": self.server.tokens[kind], "completion_tokens": body["max_tokens"]}
        events = [{"choices": [{"delta": {"content": "a"}}]}, {"choices": [], "usage": usage}]
        self.reply("".join(f"data: {line}\n\n" for line in [*map(json.dumps, events), "[DONE]"]).encode())


@pytest.fixture
def servers():
    """Factory of a compressed server and one without; fails_at: the request that the second refuses."""
    started = []

    def start(fails_at=0):
        for tokens in (60, 600):
            server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
            server.asked, server.tokens = [], {"video_url": tokens, "image_url": 300}
            server.fails_at = fails_at if started else 0
            started.append(server)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return started

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def run(servers, tmp_path, monkeypatch):
    urls = [f"http://127.0.0.1:{server.server_port}" for server in servers]
    arguments = [
        "--rounds",
        "2",
        "--requests",
        "4",
        "--clients",
        "2",
        "--images",
        "0.5",
        "--output",
        str(tmp_path / "load"),
    ]
    monkeypatch.setattr(sys, "argv", ["load_vllm.py", "model", "--urls", *urls, *arguments])
    code = load_vllm.main()
    return code, json.loads((tmp_path / "load.json").read_text())


def test_both_are_asked_the_same_and_the_ratio_is_theirs(servers, tmp_path, monkeypatch, capsys):
    both = servers()
    code, report = run(both, tmp_path, monkeypatch)
    assert code == 0
    first, second = (sorted(server.asked) for server in both)
    assert first == second and len(first) == 2 + 2 * 4 and set(first) == {"video_url", "image_url"}
    assert report["compressed"]["measured"]["prompt of a video, tokens"] == 60
    assert report["whole"]["requests"] == 8 and report["whole"]["measured"]["requests a second"] > 0
    assert "| prompt of a video, tokens | 60 | 600 | 0.10 |" in capsys.readouterr().out


def test_a_failure_is_counted_and_told(servers, tmp_path, monkeypatch, capsys):
    code, report = run(servers(fails_at=5), tmp_path, monkeypatch)
    assert code == 1 and report["whole"]["failed"] == ["No room."] and not report["compressed"]["failed"]
    assert "No room." in capsys.readouterr().err
