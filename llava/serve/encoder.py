"""Prompts with videos as embeddings: decoded, encoded and compressed here, for a language model that runs elsewhere."""

import base64
import binascii
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from aot import CompressedVideo
from aot.methods.in_llm import is_in_llm
from llava.chat.answer import ChatError
from llava.chat.live import LiveSession, read_sent
from llava.chat.prompt import Message, prompt_ids
from llava.chat.session import ChatSession
from llava.model.compression import VideoFeatures
from llava.serve.client import ServerError
from llava.video import Video, time_text

ROLES = ("system", "user", "assistant")
DECODE_SECONDS = 120.0
NO_ROOM = "There is no room for the video at the moment; try again later."
LETTERS_PER_TOKEN = 16  # of the context; no text fits that is longer, unless it is made of spaces


@dataclass(frozen=True)
class EncodedVideo:
    """A video that was encoded: what the language model reads of it, in how many tokens, and its frames' times where
    these are told.
    """

    visual: CompressedVideo | VideoFeatures
    tokens: int
    times: str


class PromptEncoder:
    """Makes (L, D) embeddings of chats about videos from a session's model, sampling and settings.

    The layers of the language model are dropped. `read` may run in several threads; everything else but `prompt` uses
    the model and belongs to one thread at a time. All raise ChatError or VideoError, both ValueError, in one sentence.
    """

    def __init__(self, session: ChatSession):
        if is_in_llm(session.compression):
            raise ChatError(
                f"Method {session.compression.method!r} drops tokens inside the language model, which runs elsewhere; "
                "choose one that acts before it."
            )
        self.session = session
        self.context = session.token_limit
        session.model.config.aot = session.compression
        session.model.get_model().layers = nn.ModuleList()
        session.model.lm_head = nn.Identity()

    def prompt(self, turns: list[Message], seen: Mapping[str, EncodedVideo], *, new_tokens: int) -> torch.Tensor:
        """(l,) ids with a mark for each video. ChatError when prompt and answer cannot fit the model's context.

        seen: the videos that are encoded by now; one that is not counts as a single token.
        """
        letters, most = sum(len(turn.text) for turn in turns), LETTERS_PER_TOKEN * self.context
        if letters > most:  # before the tokenizer spends its time on it
            raise ChatError(f"The messages have {letters} letters and this server takes {most}; shorten them.")
        session, times = self.session, {key: video.times for key, video in seen.items()}
        ids = prompt_ids(turns, session.tokenizer, template=session.template, style=session.prompt_style, times=times)
        videos = sum(seen[key].tokens - 1 for turn in turns for key in turn.videos if key in seen)
        needed = len(ids) + videos + new_tokens
        if needed > self.context:
            raise ChatError(
                f"Prompt and answer need {needed} tokens and the model's context holds {self.context}; send fewer or "
                "shorter messages, or allow a shorter answer."
            )
        return ids

    def read(
        self,
        data: bytes,
        folder: Path,
        stopped: threading.Event | None = None,
        *,
        session: ChatSession | None = None,
        ending: str = "",
    ) -> Video:
        """The sampled frames of a file, as of `llava.chat.live.read_sent`. stopped: ends the decoder once it is set.

        session: whose sampling is used, None for the encoder's own. ServerError when there is no room for the file.
        """
        limits = {"time_limit": DECODE_SECONDS, "stopped": stopped}
        try:
            return read_sent(session or self.session, data, folder, ending=ending, **limits)
        except OSError as error:
            raise ServerError(NO_ROOM, status=503) from error

    @torch.inference_mode()
    def encode(self, video: Video) -> EncodedVideo:
        """The tokens of a video's frames."""
        model = self.session.model
        model.config.aot = self.session.compression
        pixels = self.session.image_processor.preprocess(video.frames, return_tensors="pt")["pixel_values"]
        features = model.encode_video(pixels.to(model.device))
        compressed = model.video_tokens(features)[1]
        count = len(compressed.tokens) if compressed else sum(model.uncompressed_count(len(video.times)))
        return EncodedVideo(compressed or features, count, time_text(video) if self.session.sampling.tell_times else "")

    @torch.inference_mode()
    def embed(self, turns: list[Message], seen: Mapping[str, EncodedVideo], *, new_tokens: int) -> torch.Tensor:
        """(L, D) embeddings of the whole prompt, ready for the answer."""
        model = self.session.model
        model.config.aot = self.session.compression
        ids = self.prompt(turns, seen, new_tokens=new_tokens).unsqueeze(0).to(model.device)
        visual = [seen[key].visual for turn in turns for key in turn.videos]
        if not visual:
            return model.get_model().embed_tokens(ids)[0]
        kinds = ["video"] * len(visual)
        return model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, visual, kinds)[4][0]

    def embed_live(self, live: LiveSession, turns: list[Message], *, new_tokens: int) -> tuple[torch.Tensor, dict]:
        """((L, D) embeddings as of `embed`, what they are about); what was seen stands in the first user's turn."""
        seen = live.look()
        tokens, times = seen.features, time_text(seen.video) if live.session.sampling.tell_times else ""
        first = [turn.role for turn in turns].index("user")
        shown = [*turns[:first], replace(turns[first], videos=("live",)), *turns[first + 1 :]]
        about = {
            "until": live.until,
            "frames": live.frames,
            "visual_tokens": tokens.num_visual,
            "newline_tokens": tokens.num_newlines,
            "bound": tokens.bound,
        }
        encoded = {"live": EncodedVideo(tokens, len(tokens.tokens), times)}
        return self.embed(shown, encoded, new_tokens=new_tokens), about


def read_messages(messages: list) -> tuple[list[Message], dict[str, bytes]]:
    """The turns of an OpenAI chat whose parts are texts and videos (data URLs), and its files by the keys of the turns.

    A key is the SHA-256 of its file. Raises ChatError.
    """
    files: dict[str, bytes] = {}
    turns = [_message(message, files) for message in messages]
    if not turns or turns[-1].role != "user":
        raise ChatError("The last message must be the user's question.")
    if any(turn.role == "system" for turn in turns[1:]):
        raise ChatError("Only the first message may be the system's.")
    return turns, files


def _message(message, files: dict[str, bytes]) -> Message:
    """One message; its files join the others."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise ChatError(f"A message has the role {_shown(role)}; use one of: {', '.join(ROLES)}.")
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts, videos = [], []
    for part in parts if isinstance(parts, list) else [None]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "video_url" and role == "user":
            data = _file(part.get("video_url"))
            videos.append(hashlib.sha256(data).hexdigest())
            files[videos[-1]] = data
        else:
            raise ChatError(
                f"A part of the {role}'s message is {_shown(kind)}; this server takes texts and videos alone."
            )
    text = "\n".join(texts)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ChatError("A text holds half of a surrogate pair (\\ud800 to \\udfff), which is no character.") from error
    return Message(role, text, tuple(videos))


def _shown(value) -> str:
    """A word of the request in a sentence; what is no word may be large or nested deeply."""
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


def _file(reference) -> bytes:
    """The bytes of a data URL; nothing is fetched from elsewhere."""
    url = reference.get("url") if isinstance(reference, dict) else None
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not comma or not head.startswith("data:video/") or not head.endswith(";base64"):
        raise ChatError("A video must be a data URL, data:video/mp4;base64,…; nothing is fetched from elsewhere.")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ChatError("The data of a video is no base64; send the file's bytes in base64.") from error
