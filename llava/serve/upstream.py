"""vLLM behind the encoder: a chat becomes a completion from embeddings, and its answer that of a chat."""

import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import torch

from llava.serve.client import ServerError, at_end, read_event, said

ANSWER_SECONDS = 600.0  # without a byte of vLLM's
_OURS = ("messages", "max_completion_tokens", "prompt")  # fields that a completion from embeddings does not have
_FAILED = "The language model's server {}; its log says why."


def completion_request(chat: dict, embeds: torch.Tensor, *, new_tokens: int) -> bytes:
    """The request for /v1/completions that asks what a chat request asks. embeds: (L, D) of the whole prompt."""
    data = io.BytesIO()
    torch.save(embeds.cpu().clone(), data)  # a view would carry its whole storage along
    body = {name: value for name, value in chat.items() if name not in _OURS}
    embedded = base64.b64encode(data.getvalue()).decode()
    return json.dumps(body | {"max_tokens": new_tokens, "prompt_embeds": embedded}).encode()


def chat_answer(event: dict, *, streamed: bool) -> dict:
    """An answer of /v1/completions, or an event of its stream, as that of a chat. ServerError for anything else."""
    choices = []
    try:
        for choice in event.get("choices", ()):
            message = {"role": "assistant", "content": choice["text"]}
            kept = {name: choice.get(name) for name in ("index", "finish_reason")}
            choices.append(kept | {"delta" if streamed else "message": message})
    except (TypeError, KeyError, AttributeError) as error:
        raise ServerError(_FAILED.format("answered with something else than a completion")) from error
    kind = "chat.completion.chunk" if streamed else "chat.completion"
    return event | {"object": kind, "choices": choices}


class Upstream:
    """A server that answers from embeddings. Everything raises ServerError: 502, or what it refused a request with."""

    def __init__(self, url: str):
        self.http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=10.0),
            limits=httpx.Limits(max_connections=None),  # requests are bounded before they come here
            trust_env=False,
        )

    async def ask(self, path: str, body: bytes | None = None, *, authorization: bytes | None = None) -> dict:
        """The JSON object that it answers a GET with, or a POST of JSON."""
        async with self._open(path, body, authorization) as response:
            content = await response.aread()
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ServerError(_FAILED.format("answered with something else than a JSON object"))
        return found

    async def events(self, path: str, body: bytes, *, authorization: bytes | None = None) -> AsyncIterator[dict]:
        """The JSON objects of the stream that it answers a POST with."""
        async with self._open(path, body, authorization) as response:
            rest = b""  # lines end with a line feed; httpx's own end at U+2028 too, which JSON may hold
            async for chunk in response.aiter_bytes():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if at_end(line):
                        return
                    if (event := read_event(line)) is not None:
                        yield event
        raise ServerError(_FAILED.format("broke off"))

    @asynccontextmanager
    async def _open(self, path: str, body: bytes | None, authorization: bytes | None) -> AsyncIterator[httpx.Response]:
        """A response of status 200."""
        headers = {"Content-Type": b"application/json"} | ({"Authorization": authorization} if authorization else {})
        method = "GET" if body is None else "POST"
        try:
            async with self.http.stream(method, path, content=body, headers=headers) as response:
                if (status := response.status_code) != 200:
                    # the client hears a refusal of its own request as it was worded, anything else as a failure
                    if (message := said(await response.aread())) and 400 <= status < 500:
                        raise ServerError(message, status=status)
                    raise ServerError(_FAILED.format(f"answered {status}"))
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(_FAILED.format(f"cannot be reached or broke off ({type(error).__name__})")) from error
