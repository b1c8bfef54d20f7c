"""The front of a split deployment: an OpenAI-compatible server that encodes videos and lets a stock vLLM answer.

vllm serve MODEL --enable-prompt-embeds --limit-mm-per-prompt '{"image": 0, "video": 0}' --port 8001
python -m llava.serve.encoder_server --model-path CHECKPOINT --retention 0.1 --vllm http://localhost:8001
"""

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.serve.client import ServerError, events, open_url
from llava.serve.encoder import PromptEncoder
from llava.serve.options import add_model_options, check_model_options

LARGEST = 512 * 2**20  # bytes of a request
WAIT = 600.0  # seconds for vLLM's answer
_OWN = ("messages", "max_completion_tokens")  # fields of a chat that a completion does not have


def completion_request(chat: dict, embeds: torch.Tensor) -> dict:
    """The request for /v1/completions that asks what a chat request asks. embeds: (L, D) of the whole prompt."""
    data = io.BytesIO()
    torch.save(embeds.cpu().clone(), data)  # a view would carry its whole storage along
    body = {name: value for name, value in chat.items() if name not in _OWN}
    body["max_tokens"] = chat.get("max_completion_tokens") or chat.get("max_tokens") or 128
    return body | {"prompt_embeds": base64.b64encode(data.getvalue()).decode()}


def chat_answer(event: dict, *, streamed: bool) -> dict:
    """An answer of /v1/completions, or an event of its stream, as one of /v1/chat/completions."""
    choices = []
    for choice in event.get("choices", ()):
        message = {"role": "assistant", "content": choice["text"]}
        kept = {name: choice.get(name) for name in ("index", "finish_reason")}
        choices.append(kept | {"delta" if streamed else "message": message})
    kind = "chat.completion.chunk" if streamed else "chat.completion"
    return event | {"object": kind, "choices": choices}


class Handler(BaseHTTPRequestHandler):
    """One request; encoder and the address of vLLM are the server's."""

    protocol_version = "HTTP/1.1"
    server: "EncoderServer"

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, {})
        elif self.path == "/v1/models":
            self._answer(lambda: self._pass_on("/v1/models", None))
        else:
            self._fail(404, "There is only /v1/chat/completions, /v1/models and /health here.")

    def do_POST(self) -> None:
        if self.path != "/v1/chat/completions":
            self._fail(404, "There is only /v1/chat/completions here.")
            return
        self._answer(self._chat)

    def _chat(self) -> None:
        chat = self._body()
        body = completion_request(chat, self.server.encoder.embed(chat["messages"]))
        if chat.get("stream"):
            self._stream(body)
        else:
            self._pass_on("/v1/completions", body)

    def _body(self) -> dict:
        """The request; ServerError, which names the status, for one that is not read."""
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= LARGEST:
            self.close_connection = True
            raise ServerError(f"A request must have 1 to {LARGEST} bytes; send a shorter video.", status=413)
        chat = json.loads(self.rfile.read(length))
        if not isinstance(chat, dict) or not isinstance(chat.get("messages"), list):
            raise ValueError("The request has no list of messages.")
        return chat

    def _pass_on(self, path: str, body: dict | None) -> None:
        with open_url(self.server.vllm + path, body, WAIT) as response:
            said = json.load(response)
        self._send(200, said if body is None else chat_answer(said, streamed=False))

    def _stream(self, body: dict) -> None:
        with open_url(f"{self.server.vllm}/v1/completions", body, WAIT) as response:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            try:
                for event in events(response):
                    self._event(json.dumps(chat_answer(event, streamed=True)))
                self._event("[DONE]")
            except ServerError as error:  # the status is sent: only an event can still say it
                self._event(json.dumps(_error(502, error)))

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _answer(self, run) -> None:
        try:
            run()
        except ConnectionError:
            self.close_connection = True  # the client has gone
        except ServerError as error:
            self._fail(error.status, error)
        except ValueError as error:
            self._fail(400, error)

    def _fail(self, status: int, error) -> None:
        self._send(status, _error(status, error))

    def _send(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class EncoderServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], encoder: PromptEncoder, vllm: str):
        super().__init__(address, Handler)
        self.encoder, self.vllm = encoder, vllm.rstrip("/")


def _error(status: int, error) -> dict:
    return {"error": {"message": str(error), "type": "invalid_request_error" if status < 500 else "server_error"}}


def add_options(parser: Parser) -> None:
    parser.add_argument("--vllm", required=True, metavar="URL", help="vLLM with --enable-prompt-embeds")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    add_model_options(parser)


def execute(options) -> int:
    """Serves until it is interrupted; returns the exit code."""
    from llava.serve.cli import load_session

    try:
        check_model_options(options)
        encoder = PromptEncoder(load_session(options))
        server = EncoderServer((options.host, options.port), encoder, options.vllm)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"serving on http://{options.host}:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    return 0


main = entry("encoder")

if __name__ == "__main__":
    sys.exit(main())
