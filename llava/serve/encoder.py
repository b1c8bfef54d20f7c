"""Prompts with videos as embeddings: decoded, encoded and compressed here, for a language model that runs elsewhere."""

import base64
import binascii
import hashlib
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from aot import CompressedVideo
from aot.methods.in_llm import is_in_llm
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token
from llava.model.compression import VideoFeatures
from llava.serve.session import ChatError, ChatSession
from llava.video import Video, time_text

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Seen:
    """A video that was encoded: what the language model reads of it, and its frames' times where these are told."""

    visual: CompressedVideo | VideoFeatures
    times: str


class PromptEncoder:
    """Makes (L, D) embeddings of chat messages about videos; safe to call from several threads.

    session: model, sampling and settings. remember: videos whose tokens are kept, the ones last asked about;
    the compression does not look at the question. The layers of the language model are dropped.
    """

    def __init__(self, session: ChatSession, *, remember: int = 32):
        if is_in_llm(session.aot):
            raise ChatError(
                f"Method {session.aot.method!r} drops tokens inside the language model, which runs elsewhere; choose "
                "one that acts before it."
            )
        self.session, self.remember = session, remember
        session.model.config.aot = None if session.aot is None else session.aot.to_dict()
        session.model.get_model().layers = nn.ModuleList()
        session.model.lm_head = nn.Identity()
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._model, self._memory = threading.Lock(), threading.Lock()

    @torch.inference_mode()
    def embed(self, messages: list[dict]) -> torch.Tensor:
        """Embeddings of an OpenAI chat whose parts are texts and videos (data URLs), ready for the answer.

        Raises ChatError or VideoError, both ValueError, in one sentence.
        """
        turns = [_turn(message) for message in messages]
        if not turns or turns[-1][0] != "user":
            raise ChatError("The last message must be the user's question.")
        prompt, videos = self._prompt(turns)
        ids = tokenizer_image_token(prompt, self.session.tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
        model = self.session.model
        ids = ids.unsqueeze(0).to(model.device)
        if not videos:
            return model.get_model().embed_tokens(ids)[0]
        with self._model:
            prepared = model.prepare_inputs_labels_for_multimodal(
                ids, None, None, None, None, [seen.visual for seen in videos], ["video"] * len(videos)
            )
        return prepared[4][0]

    def _prompt(self, turns: list[tuple[str, str, list[bytes]]]) -> tuple[str, list[Seen]]:
        """The prompt with a mark for each video, and the videos in its order."""
        conversation = conv_templates[self.session.template].copy()
        videos: list[Seen] = []
        for number, (role, text, files) in enumerate(turns):
            text = text.replace(DEFAULT_IMAGE_TOKEN, "< image >")
            if role == "system":
                if number:
                    raise ChatError("Only the first message may be the system's.")
                conversation.system = f"<|im_start|>system\n{text}"
                continue
            here = [self._see(data) for data in files]
            videos += here
            if role == "user":
                text = "\n".join(
                    [DEFAULT_IMAGE_TOKEN] * len(here) + [s.times for s in here if s.times] + [self._put(text)]
                )
            conversation.append_message(conversation.roles[role == "assistant"], text)
        conversation.append_message(conversation.roles[1], None)
        return conversation.get_prompt(), videos

    def _put(self, text: str) -> str:
        return self.session.manner.put(text)

    def _see(self, data: bytes) -> Seen:
        """A video's tokens, remembered by the content of its file."""
        key = hashlib.sha256(data).hexdigest()
        with self._memory:
            if key in self._seen:
                self._seen.move_to_end(key)
                return self._seen[key]
        with tempfile.NamedTemporaryFile(suffix=".video") as file:
            file.write(data)
            file.flush()
            video = self.session.read_video(file.name)
        seen = self._encode(video)
        with self._memory:
            self._seen[key] = seen
            while len(self._seen) > self.remember:
                self._seen.popitem(last=False)
        return seen

    def _encode(self, video: Video) -> Seen:
        model = self.session.model
        pixels = self.session.image_processor.preprocess(video.frames, return_tensors="pt")["pixel_values"]
        with self._model:
            features = model.encode_video(pixels.to(model.device))
            compressed = model.video_tokens(features)[1]
        return Seen(compressed or features, time_text(video) if self.session.sampling.tell_times else "")


def _turn(message: dict) -> tuple[str, str, list[bytes]]:
    """(role, text, video files) of one message. ChatError for what is no such message."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise ChatError(f"A message has the role {role!r}; use one of: {', '.join(ROLES)}.")
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts, files = [], []
    for part in parts if isinstance(parts, list) else [None]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "video_url" and role == "user":
            files.append(_file(part.get("video_url")))
        else:
            raise ChatError(f"A part of the {role}'s message is {kind!r}; this server takes texts and videos alone.")
    return role, "\n".join(texts), files


def _file(reference) -> bytes:
    """The bytes of a data URL; nothing is fetched from elsewhere."""
    url = reference.get("url") if isinstance(reference, dict) else None
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not comma or not head.startswith("data:video/") or not head.endswith(";base64"):
        raise ChatError("A video must be a data URL, data:video/mp4;base64,…; nothing is fetched from elsewhere.")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ChatError("The data of a video is no base64; send the file's bytes in base64.") from error
