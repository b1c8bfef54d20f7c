"""The HTTP side of the encoder: bounds on what comes in, one encoding of a video for all who ask, answers passed on."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from aot import AOTError
from llava.chat.answer import ChatError
from llava.chat.prompt import Message
from llava.serve.client import ServerError
from llava.serve.encoder import PromptEncoder, read_messages
from llava.serve.encoder_pool import EncoderPool, LiveSessions
from llava.serve.guard import BUSY, JSON, BodyBudget, Guard, authorization, error_response, read_body, while_connected
from llava.serve.upstream import Upstream, chat_answer, completion_request
from llava.video import VideoError

NEW_TOKENS = 128  # of an answer, when a request does not say
MOST_VALUES = 100_000  # of a request's JSON; small ones take many times their letters in memory
PICTURES = {"image/jpeg": ".jpg", "image/png": ".png"}  # endings by the type of a body
REFUSED = (ChatError, VideoError, AOTError)  # what is wrong with a request, in one sentence


@dataclass(frozen=True)
class Limits:
    """What requests may take.

    megabytes: of one body, and held_megabytes of all that are in memory. body_silence, body_seconds: without a byte of
    a body, and for the whole of it. requests: that are worked on or answered at a time. decoders: processes at a time.
    remember: videos whose tokens are kept, the ones last asked about. live_sessions: at a time, each until live_idle
    seconds without a request.
    """

    megabytes: float = 256.0
    held_megabytes: float = 1024.0
    body_silence: float = 20.0
    body_seconds: float = 300.0
    requests: int = 64
    decoders: int = 2
    remember: int = 32
    live_sessions: int = 8
    live_idle: float = 300.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise ChatError(f"The limit {name} is {value}; give a number above 0.")


def encoder_app(
    encoder: PromptEncoder, vllm: str, *, api_key: str | None = None, limits: Limits | None = None
) -> Starlette:
    """The application that answers chats about videos: encodes here, and asks the server at `vllm` for the words.

    api_key: what clients must bring. Their Authorization is passed on in any case. Raises ChatError for an empty key,
    and for an address of vLLM that is none.
    """
    if api_key is not None and not api_key.strip():
        raise ChatError("The API key is empty; give one, or leave it out to let everybody in.")
    try:
        place = urlsplit(vllm)
        known = place.scheme in ("http", "https") and place.hostname and place.port != 0
    except ValueError:
        known = False
    if not known:
        raise ChatError(f"--vllm {vllm} is no address of a server; give one such as http://localhost:8001.")
    chats = _Routes(encoder, vllm, limits or Limits())
    return Starlette(
        routes=[
            Route("/health", _health),
            Route("/v1/models", chats.models),
            Route("/v1/chat/completions", chats.chat, methods=["POST"]),
            Route("/v1/live", chats.begin_live, methods=["POST"]),
            Route("/v1/live/{id}", chats.delete_live, methods=["DELETE"]),
            Route("/v1/live/{id}/frames", chats.push_live, methods=["POST"]),
            Route("/v1/live/{id}/chat/completions", chats.chat_live, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, api_key=api_key)],
        exception_handlers=dict.fromkeys((HTTPException, ServerError, *REFUSED, Exception), _error),
        lifespan=chats.lifespan,
    )


class _Routes:
    """What the routes share."""

    def __init__(self, encoder: PromptEncoder, vllm: str, limits: Limits):
        self.limits = limits
        self.encoding = EncoderPool(encoder, decoders=limits.decoders, remember=limits.remember)
        self.live = LiveSessions(self.encoding, most=limits.live_sessions, idle=limits.live_idle)
        self.upstream = Upstream(vllm.rstrip("/"))
        self.held = BodyBudget(int(limits.held_megabytes * 1e6))
        self.working = 0

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        with self.encoding.running():
            async with self.upstream.http:
                yield

    async def models(self, request: Request) -> Response:
        with self._place():
            return JSON(await self.upstream.ask("/v1/models", authorization=authorization(request.scope)))

    # no responses yet: what is returned watches the client while it works and streams

    async def chat(self, request: Request) -> ASGIApp:
        async def work(body: bytearray) -> Response:
            chat, turns, files, new_tokens = await asyncio.to_thread(read_chat, body)
            body.clear()
            embeds = await self.encoding.embed(turns, files, new_tokens=new_tokens)
            return await self._answer(request, chat, embeds, {}, new_tokens)

        return partial(self._respond, work)

    async def begin_live(self, request: Request) -> ASGIApp:
        async def work(body: bytearray) -> Response:
            if body.strip() not in (b"", b"{}"):
                raise ChatError("A live session has the server's own settings; send no body.")
            key, opened = await self.live.begin()
            session, idle = opened.live.session, self.limits.live_idle
            settings = {"fps": session.sampling.fps, "settings": session.compression.to_dict()}
            return JSON({"id": key, "object": "live", "idle_seconds": idle, **settings})

        return partial(self._respond, work)

    async def push_live(self, request: Request) -> ASGIApp:
        key = request.path_params["id"]
        self.live.find(key)  # a refusal does not wait for the body
        ending, seconds = read_kind(request), read_time(request)

        async def work(body: bytearray) -> Response:
            async with self.live.use(key) as opened:
                time = opened.now if seconds is None else lambda: seconds
                await self.encoding.push_live(opened.live, bytes(body), ending, time)
                return JSON({"frames": opened.live.frames, "until": opened.live.until})

        return partial(self._respond, work)

    async def chat_live(self, request: Request) -> ASGIApp:
        """As `chat`, about what a live session has seen by now."""
        key = request.path_params["id"]
        self.live.find(key)

        async def work(body: bytearray) -> Response:
            chat, turns, files, new_tokens = await asyncio.to_thread(read_chat, body)
            if files:
                raise ChatError("A live session has a video of its own; leave others out of the messages.")
            async with self.live.use(key) as opened:
                embed = partial(self.encoding.encoder.embed_live, opened.live, turns, new_tokens=new_tokens)
                embeds, about = await self.encoding.on_model(embed)
            return await self._answer(request, chat, embeds, {"live": about}, new_tokens)

        return partial(self._respond, work)

    async def delete_live(self, request: Request) -> Response:
        self.live.delete(request.path_params["id"])
        return JSON({"id": request.path_params["id"], "deleted": True})

    async def _respond(
        self, work: Callable[[bytearray], Coroutine[Any, Any, Response]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Reads a request in time and within bounds, then works for it as long as its client is there."""

        async def answer(body: bytearray) -> None:
            response = await work(body)
            await response(scope, receive, send)

        limits = self.limits
        with self.held.body() as take:
            with self._place():  # a refusal does not wait for the body
                pass
            try:
                body = await read_body(
                    Request(scope, receive),
                    take,
                    most=int(limits.megabytes * 1e6),
                    silence=limits.body_silence,
                    seconds=limits.body_seconds,
                )
            except ClientDisconnect:
                return
            with self._place():
                await while_connected(receive, answer(body))

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the requests that are worked on; ServerError when there are enough of them."""
        if self.working >= self.limits.requests:
            raise ServerError(BUSY, status=503)
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1

    async def _answer(
        self, request: Request, chat: dict, embeds: torch.Tensor, more: dict, new_tokens: int
    ) -> Response:
        """What the language model says. embeds: (L, D) of the prompt. more: fields of the answer or its first event."""
        completion = await asyncio.to_thread(completion_request, chat, embeds, new_tokens=new_tokens)
        upstream = {"path": "/v1/completions", "body": completion, "authorization": authorization(request.scope)}
        if not chat.get("stream"):
            return JSON(chat_answer(await self.upstream.ask(**upstream), streamed=False) | more)
        events = self.upstream.events(**upstream)
        first = await anext(events, None)  # before anything is sent: a refusal has a status of its own
        return _Events(_as_chat(first and first | more, events), media_type="text/event-stream")


class _Events(StreamingResponse):
    """A stream whose client is watched already."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


def read_kind(request: Request) -> str:
    """The ending of a picture's file by the type of a request's body, "" for a video. ServerError (415) for others."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not kind.startswith("video/") and kind not in PICTURES:
        raise ServerError(
            "Frames are a picture or a short video; send its bytes with Content-Type image/jpeg, image/png or "
            "video/mp4.",
            status=415,
        )
    return PICTURES.get(kind, "")


def read_time(request: Request) -> float | None:
    """Seconds of the first frame of a request, None for now. Raises ChatError."""
    try:
        seconds = float(request.query_params.get("time", "nan"))
    except ValueError:
        seconds = -1.0
    if "time" in request.query_params and not 0 <= seconds < math.inf:
        raise ChatError("time is no number of seconds from 0 on; leave it out for now.")
    return None if math.isnan(seconds) else seconds


def read_chat(body: bytearray) -> tuple[dict, list[Message], dict[str, bytes], int]:
    """(fields beside the messages, turns, files by the keys of the turns, most new tokens) of a chat request's JSON.

    Raises ChatError.
    """

    def no_number(name: str):
        raise ValueError(f"{name} is no JSON")

    if body.count(b",") > MOST_VALUES:
        raise ChatError(f"The request has more than {MOST_VALUES} values; send a shorter chat.")
    try:
        chat = json.loads(body, parse_constant=no_number)
        fields = {name: value for name, value in chat.items() if name != "messages"}
        json.dumps(fields)  # as it will be passed on
    except (ValueError, RecursionError, AttributeError) as error:
        raise ChatError("The request is no JSON object that can be read; send the one of an OpenAI chat.") from error
    if not isinstance(chat.get("messages"), list):
        raise ChatError("The request has no list of messages; send the one of an OpenAI chat.")
    new_tokens = chat.get("max_completion_tokens") or chat.get("max_tokens") or NEW_TOKENS
    if type(new_tokens) is not int or new_tokens < 1:
        raise ChatError("max_tokens is no whole number above 0; give one.")
    return fields, *read_messages(chat["messages"]), new_tokens


async def _as_chat(event: dict | None, events: AsyncIterator[dict]) -> AsyncIterator[str]:
    """The events of a chat's stream: `event`, and those that follow."""
    try:
        async with aclosing(events):
            while event is not None:
                yield f"data: {json.dumps(chat_answer(event, streamed=True))}\n\n"
                event = await anext(events, None)
        yield "data: [DONE]\n\n"
    except ServerError as error:  # the status is sent: only an event can still say it
        yield f"data: {error_response(502, str(error)).body.decode()}\n\n"


async def _health(request: Request) -> Response:
    return JSON({})


async def _error(request: Request, error: Exception) -> Response:
    """What the client hears of an error: a refusal in its own words, of a defect nothing more than that."""
    if isinstance(error, HTTPException):
        ways = "There is only POST /v1/chat/completions, POST /v1/live, GET /v1/models and GET /health."
        return error_response(error.status_code, ways)
    if isinstance(error, ServerError):
        return error_response(error.status, str(error))
    if isinstance(error, REFUSED):
        return error_response(400, str(error))
    return error_response(500, "The server failed; its log says why.")
