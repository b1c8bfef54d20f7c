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
    api_key: str | None = None,
    **fields,
) -> Reply:
    """Asks one question, greedily. parts: `media_part` of each file; fields: further ones of the request.

    model: None asks the server for the one it has. api_key: what the server was started with. Raises ServerError.
    """
    content = [*parts, {"type": "text", "text": question}]
    body = {
        "model": model or served_model(url, timeout=timeout, api_key=api_key),
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }
    started = time.perf_counter()
    text, usage, first = "", {}, None
    with open_url(f"{url}/v1/chat/completions", body, timeout, api_key=api_key) as response:
        for event in events(response):
            new, used = read_delta(event)
            usage = used or usage
            if new and first is None:
                first = time.perf_counter()
            text += new
            if new and on_text:
                on_text(new)
    ended = time.perf_counter()
    milliseconds = [1e3 * (moment - started) for moment in (first or ended, ended)]
    return Reply(text, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), *milliseconds)


def served_model(url: str, *, timeout: float = 60, api_key: str | None = None) -> str:
    """Name of the model a server has."""
    with open_url(f"{url}/v1/models", None, timeout, api_key=api_key) as response:
        try:
            return json.load(response)["data"][0]["id"]
        except (ValueError, LookupError, TypeError) as error:
            raise ServerError(f"{url} does not say which model it serves; check its address.") from error


def events(response) -> Iterator[dict]:
    """The JSON of every event of a stream. ServerError for one that says so, and for a stream that breaks off."""
    try:
        for line in response:
            if at_end(line):
                return
            if (event := read_event(line)) is not None:
                yield event
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"The server broke off ({error}); see its log.") from error
    raise ServerError("The server broke off before the end of its answer; see its log.")


def at_end(line: bytes) -> bool:
    """Is it the last line of a stream?"""
    return line.strip() == b"data: [DONE]"


def read_event(line: bytes) -> dict | None:
    """The JSON object in a line of a stream, None when there is none. ServerError for an error or anything else."""
    name, _, data = line.strip().partition(b":")
    if name != b"data":
        return None
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ServerError("The server sent an event that is no JSON; see its log.") from error
    if not isinstance(event, dict) or "error" in event:
        raise ServerError(said(data) or "The server sent an event that is no answer; see its log.")
    return event


def read_delta(event: dict) -> tuple[str, dict]:
    """(new text, counts of tokens, if any) in an event of an answer. ServerError for an event that is none."""
    try:
        new = [choice["delta"].get("content") or "" for choice in event.get("choices") or ()]
        return "".join(new), dict(event.get("usage") or {})
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ServerError("The server sent an event that is no answer; see its log.") from error


def open_url(url: str, body: dict | None, timeout: float, *, api_key: str | None = None):
    """The response to a GET, or to a POST of body as JSON; ServerError for a refusal."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        raise ServerError(said(error.read()) or f"It answered {error.code}.", status=error.code) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # also an address or a key that is none
        raise ServerError(f"There is no server at {url} ({error}); start one, or give its --url.") from error


def said(body: bytes) -> str:
    """The message in the JSON of a refusal, "" when there is none."""
    try:
        content = json.loads(body)
        message = content["error"]["message"] if "error" in content else content["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return message if isinstance(message, str) else ""


def add_options(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="video or picture")
    parser.add_argument("question", metavar="QUESTION", help="what to ask about it")
    parser.add_argument("--url", default="http://localhost:8000", help="default: http://localhost:8000")
    parser.add_argument("--api-key", metavar="KEY", help="the one that the server was started with")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="longest answer (default 128)")


def execute(options) -> int:
    """Asks and prints the answer as it comes; returns the exit code."""
    try:
        reply = ask(
            options.url.rstrip("/"),
            [media_part(options.file)],
            options.question,
            max_tokens=options.max_tokens,
            api_key=options.api_key,
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
