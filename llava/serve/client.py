"""Asks an OpenAI-compatible server about a video or picture file and says what the answer took; needs no vLLM.

python -m llava.serve.client clip.mp4 "What shape is the green object?" --url http://localhost:8000
"""

import base64
import http.client
import json
import mimetypes
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aot_cli.main import entry
from aot_cli.parser import Parser


class ServerError(ValueError):
    """What the server refused, or that it cannot be reached; one sentence. status: HTTP's."""

    def __init__(self, message: str, *, status: int = 502):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Reply:
    """An answer; first and total are milliseconds from sending the request to the first token and to the end."""

    text: str
    prompt_tokens: int
    new_tokens: int
    first: float
    total: float


def media_part(path: str | Path) -> dict:
    """A file as a part of a message: a video or, by its ending, a picture. ServerError for anything else."""
    kind = mimetypes.guess_type(path)[0] or ""
    name = kind.split("/")[0]
    if name not in ("video", "image"):
        raise ServerError(f"{path} is neither a video nor a picture by its name; give one that ends in .mp4 or .png.")
    try:
        data = base64.b64encode(Path(path).read_bytes()).decode()
    except OSError as error:
        raise ServerError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    return {"type": f"{name}_url", f"{name}_url": {"url": f"data:{kind};base64,{data}"}}


def ask(
    url: str,
    parts: list[dict],
    question: str,
    *,
    model: str | None = None,
    max_tokens: int = 128,
    on_text: Callable[[str], None] | None = None,
    timeout: float = 600,
    **fields,
) -> Reply:
    """Asks one question, greedily. parts: `media_part` of each file; fields: further ones of the request.

    model: None asks the server for the one it has. Raises ServerError.
    """
    content = [*parts, {"type": "text", "text": question}]
    body = {
        "model": model or served_model(url, timeout=timeout),
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }
    started = time.perf_counter()
    text, usage, first = "", {}, None
    with open_url(f"{url}/v1/chat/completions", body, timeout) as response:
        for event in events(response):
            usage = event.get("usage") or usage
            for choice in event.get("choices", ()):
                new = choice["delta"].get("content") or ""
                if new and first is None:
                    first = time.perf_counter()
                text += new
                if new and on_text:
                    on_text(new)
    ended = time.perf_counter()
    milliseconds = [1e3 * (moment - started) for moment in (first or ended, ended)]
    return Reply(text, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), *milliseconds)


def served_model(url: str, *, timeout: float = 60) -> str:
    """Name of the model a server has."""
    with open_url(f"{url}/v1/models", None, timeout) as response:
        return json.load(response)["data"][0]["id"]


def events(response) -> Iterator[dict]:
    """The JSON of every event of a stream. ServerError for one that says so, and for a stream that breaks off."""
    try:
        for line in response:
            data = line.decode().strip().removeprefix("data:").strip()
            if data == "[DONE]":
                return
            if data:
                event = json.loads(data)
                if "error" in event:
                    raise ServerError(event["error"]["message"])
                yield event
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"The server broke off ({error}); see its log.") from error
    raise ServerError("The server broke off before the end of its answer; see its log.")


def open_url(url: str, body: dict | None, timeout: float):
    """The response to a GET, or to a POST of body as JSON; ServerError for a refusal."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        raise ServerError(_message(error.read()) or f"It answered {error.code}.", status=error.code) from error
    except OSError as error:
        raise ServerError(f"There is no server at {url} ({error}); start one, or give its --url.") from error


def _message(body: bytes) -> str:
    try:
        said = json.loads(body)
        return said["error"]["message"] if "error" in said else said.get("message", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return body.decode(errors="replace").strip()


def add_options(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="video or picture")
    parser.add_argument("question", metavar="QUESTION", help="what to ask about it")
    parser.add_argument("--url", default="http://localhost:8000", help="default: http://localhost:8000")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="longest answer (default 128)")


def execute(options) -> int:
    """Asks and prints the answer as it comes; returns the exit code."""
    try:
        reply = ask(
            options.url.rstrip("/"),
            [media_part(options.file)],
            options.question,
            max_tokens=options.max_tokens,
            on_text=lambda text: print(text, end="", flush=True),
        )
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    costs = f"{reply.prompt_tokens} tokens in the prompt, {reply.new_tokens} in the answer"
    print(f"\n[{costs}; first token {reply.first:.0f} ms, whole answer {reply.total:.0f} ms]")
    return 0


main = entry("ask")

if __name__ == "__main__":
    sys.exit(main())
