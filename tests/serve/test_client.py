"""`aot ask` against addresses that are none, and servers that answer anything."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from PIL import Image

from aot_cli.main import main
from llava.serve.client import ServerError, ask


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.mark.parametrize(
    "url", ["localhost:1", "nowhere", "", "http://", "http://a b", "http://é.invalid", "http://a:b"]
)
def test_an_address_that_is_none_is_one_sentence(url, picture, capsys):
    assert main(["ask", picture, "What?", "--url", url]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "There is no server at" in told


def test_a_key_that_cannot_be_sent_is_one_sentence(picture, capsys):
    assert main(["ask", picture, "What?", "--url", "http://localhost:1", "--api-key", "a\nb"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "event", ["[]", "3", "{", '{"choices": 3}', '{"choices": [{}]}', '{"choices": [{"delta": 3}]}', '{"usage": 3}']
)
def test_events_that_are_none_are_one_sentence(event):
    class Says(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"data: {event}\n\ndata: [DONE]\n\n".encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Says) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ServerError, match="The server sent an event"):
            ask(f"http://127.0.0.1:{server.server_port}", [], "What?", model="m")
        server.shutdown()
