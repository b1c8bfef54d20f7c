"""What every request to a server meets first: its framing, size and time, and whether its sender is still there."""

import asyncio
import json
import secrets
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from llava.serve.client import ServerError

CONNECTIONS = 768  # open at a time; a process may often have 1024 files
HEAD_SECONDS = 10.0  # from the start of a connection, or the last answer, to the end of a request's head
RETRY_SECONDS = 5
BUSY = "The server is busy with other requests; try again later."


def error_response(status: int, message: str, *, close: bool = False) -> Response:
    """A refusal or failure in OpenAI's shape. close: nothing else is read from this connection."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {"Connection": "close"} if close else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    return JSON({"error": {"message": message, "type": kind, "param": None, "code": status}}, status, headers)


class JSON(Response):
    """ASCII, so that half a surrogate pair, which is no UTF-8, can be answered too."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


class Connection(H11Protocol):
    """uvicorn's connection, which also ends when the head of a request does not come, and says errors in JSON."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > CONNECTIONS:
            self._refuse(error_response(503, "The server has too many connections; try again later."))

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(HEAD_SECONDS, self._end_without_request)

    def _end_without_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._refuse(error_response(400, "This is no HTTP request that can be read.", close=True))

    def _refuse(self, response: Response) -> None:
        """Answers what did not become a request."""
        head = [f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}".encode()]
        head += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*head, b"", response.body]))
        self.transport.close()


class Guard:
    """Lets through what is framed in one way alone and, when there is an API key, brings it; /health needs none."""

    def __init__(self, app: ASGIApp, *, api_key: str | None = None):
        self.app, self.api_key = app, None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.app
        if scope["type"] == "http" and (fault := framing_fault(scope)):
            answer = error_response(400, fault, close=True)
        elif scope["type"] == "http" and scope["path"] != "/health" and self.api_key is not None:
            scheme, _, key = (authorization(scope) or b"").partition(b" ")
            if scheme.lower() != b"bearer" or not secrets.compare_digest(key.strip(), self.api_key):
                answer = error_response(401, "The API key is missing or wrong; send it as Authorization: Bearer KEY.")
        await answer(scope, receive, send)


def framing_fault(scope: Scope) -> str:
    """What makes the end of a request's body doubtful, "" for nothing."""
    names = [name for name, _ in scope["headers"]]
    lengths, chunked = names.count(b"content-length"), b"transfer-encoding" in names
    if lengths + chunked > 1:
        return "The length of the body is stated twice; state Content-Length or Transfer-Encoding once."
    if scope["method"] in ("GET", "HEAD") and (chunked or dict(scope["headers"]).get(b"content-length", b"0") != b"0"):
        return f"A {scope['method']} request has no body here; leave it out."
    return ""


def authorization(scope: Scope) -> bytes | None:
    """The header as it came."""
    return dict(scope["headers"]).get(b"authorization")


class BodyBudget:
    """Bytes of bodies that are in memory now, of all requests together."""

    def __init__(self, most: int):
        self.most, self.now = most, 0

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Gives a function that takes so many bytes more, all of them until the end; ServerError when too many."""
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self.now + count > self.most:
                raise ServerError(BUSY, status=503)
            self.now += count
            mine += count

        try:
            yield take
        finally:
            self.now -= mine


async def read_body(
    request: Request, take: Callable[[int], None], *, most: int, silence: float, seconds: float
) -> bytearray:
    """The body of a request.

    take: called with the bytes of each piece before it is kept. most: bytes of a body. silence, seconds: without a
    byte, and altogether. Raises ServerError (413, 408), or ClientDisconnect.
    """
    too_large = ServerError(f"A request may have {most} bytes; send a shorter video.", status=413)
    if int(request.headers.get("Content-Length", 0)) > most:
        raise too_large
    body = bytearray()
    try:
        with anyio.fail_after(seconds):
            pieces = request.stream()
            while True:
                with anyio.fail_after(silence):
                    piece = await anext(pieces, b"")
                if not piece:
                    return body
                if len(body) + len(piece) > most:
                    raise too_large
                take(len(piece))
                body += piece
    except TimeoutError as error:
        raise ServerError("The body of the request did not come in time; send it again.", status=408) from error


async def while_connected(receive: Receive, work: Coroutine) -> None:
    """Does the work, which sends the response; cancels it when the client goes."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        doing.cancel()
        gone.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
