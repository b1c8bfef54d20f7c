"""One conversation about one video: the video is encoded once, compressed and asked as often as wanted.

Nothing here prints or reads; a terminal, a web page or a test drives it.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from aot import AOTConfig, AOTError, CompressedVideo
from aot.baselines.in_llm import is_in_llm
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token
from llava.model.long_video import Ahead, compress_stream, pixel_chunks, streams
from llava.serve.family import Manner, Sampling, default_manner, default_sampling
from llava.serve.memory import peak_memory
from llava.serve.streaming import TextStream
from llava.video import FrameStream, Video, load_video, open_video, time_text


class ChatError(ValueError):
    """Something the person can put right; the text is one sentence that says how."""


@dataclass(frozen=True)
class Tokens:
    """Visual tokens and, counted apart, newline tokens of one video in the language model."""

    visual: int
    newline: int


@dataclass(frozen=True)
class Answer:
    """An answer and what it cost.

    settings: AOTConfig.to_dict() or None (no compression). timings: milliseconds of decode and tower (paid
    once a video), compress, first_token (from the question to the first token) and total. peak_memory: MiB.
    """

    question: str
    text: str
    frames: int
    before: Tokens
    after: Tokens
    settings: dict | None
    timings: dict[str, float]
    peak_memory: dict[str, float]
    new_tokens: int
    stopped: bool = False

    @property
    def retention(self) -> float:
        """Share of the visual tokens that reached the language model."""
        return self.after.visual / self.before.visual


@dataclass
class Loaded:
    """A video that has been decoded and encoded.

    features: `VideoFeatures`, or the `CompressedVideo` of one setting when it was compressed while it was read.
    video: of the latter the `FrameStream` that is over, which knows the times and holds no frames.
    """

    path: str
    video: Video | FrameStream
    features: object
    before: Tokens
    timings: dict[str, float]

    @property
    def streamed(self) -> bool:
        """Was the video compressed while it was read?"""
        return isinstance(self.features, CompressedVideo)


@dataclass
class ChatSession:
    """A model, the video it looks at, and the turns so far.

    aot: the compression in force, None for none. stream_above: a video of more frames is compressed while it is read
    (see `aot.VideoStream`), where the compression can be had so: memory does not grow with its length, and another
    compression reads the video again. None: every video is encoded as a whole.
    Raises ChatError, VideoError or AOTError (all ValueError) with one clear sentence.
    """

    model: torch.nn.Module
    tokenizer: object
    image_processor: object
    context_length: int
    aot: AOTConfig | None = None
    sampling: Sampling | None = None
    manner: Manner | None = None
    force_sample: bool = False
    decoder: str = "auto"
    stream_above: int | None = None
    template: str = "qwen_1_5"
    max_new_tokens: int = 512
    temperature: float = 0.0
    loaded: Loaded | None = None
    turns: list[tuple[str, str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self):
        if self.template not in conv_templates:
            known = ", ".join(conv_templates)
            raise ChatError(f"There is no conversation template {self.template!r}; choose one of {known}.")
        if self.sampling is None:
            self.sampling = default_sampling(self.model.config)
        if self.manner is None:
            self.manner = default_manner(self.model.config)
        # what /retention goes back to after the compression was off
        self._base = self.aot or AOTConfig()

    def set_video(self, path: str, progress: Callable[[str, int, int], None] | None = None) -> Loaded:
        """Decodes and encodes a video and starts a new conversation; on an error everything stays as it was.

        progress(stage, done, total) with stage "decode" or "tower"; total 0 when unknown.
        """
        self.loaded = self._read(path, progress)
        self.turns.clear()
        return self.loaded

    def _read(self, path: str, progress: Callable[[str, int, int], None] | None = None) -> Loaded:
        """The video under the compression in force, streamed or as a whole."""
        if (loaded := self._stream(path, progress)) is not None:
            return loaded
        started = time.perf_counter()
        video = self.read_video(path, progress)
        return self._encode(path, video, decode_ms=1e3 * (time.perf_counter() - started), progress=progress)

    def read_video(self, path: str, progress: Callable[[str, int, int], None] | None = None) -> Video:
        """Decodes the frames that the model looks at; touches neither the model nor the conversation."""
        return load_video(path, progress=_decoding(progress), **self._sampled())

    def open_video(self, path: str, **limits) -> AbstractContextManager[FrameStream]:
        """The frames that `read_video` reads, one after another; limits: more arguments of `open_video`."""
        return open_video(path, **self._sampled(), **limits)

    def _sampled(self) -> dict:
        """What `load_video` and `open_video` are told."""
        return {
            "num_frames": self.sampling.num_frames,
            "fps": self.sampling.fps,
            "force_sample": self.force_sample,
            "decoder": self.decoder,
            "repeat": self.force_sample,
        }

    def encode(
        self,
        path: str,
        video: Video,
        *,
        decode_ms: float = 0.0,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Loaded:
        """Encodes a video that was read and starts a new conversation about it."""
        self.loaded = self._encode(path, video, decode_ms=decode_ms, progress=progress)
        self.turns.clear()
        return self.loaded

    @torch.inference_mode()
    def _encode(self, path: str, video: Video, *, decode_ms: float, progress) -> Loaded:
        started = time.perf_counter()
        if progress:
            progress("tower", 0, 0)
        # attention is captured even while compression is off: /retention may turn it on for this video
        self.model.config.aot = self._base
        pixels = self.image_processor.resize(video.frames)
        features = self.model.encode_video(pixels.to(self.model.device))
        timings = {
            "decode": decode_ms,
            "tower": self.model.last_timing["tower"],
            "projector": self.model.last_timing["projector"],
            "encode": 1e3 * (time.perf_counter() - started),
        }
        return Loaded(path, video, features, Tokens(*self.model.uncompressed_count(len(video.times))), timings)

    @torch.inference_mode()
    def _stream(self, path: str, progress) -> Loaded | None:
        """The video compressed while it is read; None when it is short, or the compression needs the whole of it."""
        if self.stream_above is None or self.sampling.num_frames <= self.stream_above or not streams(self.aot):
            return None
        self.model.config.aot = self.aot
        started = time.perf_counter()
        with open_video(path, progress=_decoding(progress), **self._sampled()) as video:
            if len(video.times) <= self.stream_above:
                return None
            pinned = self.model.device.type == "cuda"
            with Ahead(pixel_chunks(video, self.image_processor), video.stop, pinned=pinned) as chunks:
                compressed = compress_stream(self.model, chunks)
        spent = self.model.last_timing
        timings = {"decode": spent["wait"], **{name: spent[name] for name in ("tower", "projector", "compress")}}
        timings["encode"] = 1e3 * (time.perf_counter() - started)
        return Loaded(path, video, compressed, Tokens(*self.model.uncompressed_count(len(video.times))), timings)

    @torch.inference_mode()
    def traced(self) -> CompressedVideo:
        """The video under the compression in force, with what pictures of it need; asks nothing."""
        if self.loaded is None:
            raise ChatError("There is no video to draw yet; give one first.")
        settings = self.aot or AOTConfig(retention=1.0)
        self.model.config.aot = settings
        _, compressed = self.model.video_tokens(self.loaded.features, trace=True)
        return compressed

    def set_retention(self, retention: float) -> None:
        """Keeps this share of the tokens from now on; 1 turns compression off.

        The video stays encoded, but one that was streamed is read again for the next question.
        """
        self.aot = None if retention == 1 else self._base.replace(retention=retention)

    def ask(self, question: str, *, on_text: Callable[[str], None] | None = None, remember: bool = True) -> Answer:
        """Answers a question about the video; on_text gets the text as it comes. remember: keep the turn."""
        if self.loaded is None:
            raise ChatError("There is no video to ask about yet; give one first, with /video PATH.")
        if not question.strip():
            raise ChatError("The question is empty; type one.")
        started = time.perf_counter()
        ids = self._prompt(question)
        self._check_length(ids.shape[1])
        self._renew()
        self.model.config.aot = self.aot
        stream = TextStream(self.tokenizer, on_text)
        stopped = self._generate(ids, stream)
        total = 1e3 * (time.perf_counter() - started)
        before = self.loaded.before
        answer = Answer(
            question=question,
            text=stream.text().strip(),
            frames=len(self.loaded.video.times),
            before=before,
            after=self._after(),
            settings=None if self.aot is None else self.aot.to_dict(),
            timings={
                "decode": self.loaded.timings["decode"],
                "tower": self.loaded.timings["tower"],
                "compress": self._compress_ms(),
                "first_token": 1e3 * (stream.first - started) if stream.first else total,
                "total": total,
            },
            peak_memory=peak_memory(),
            new_tokens=len(stream.tokens),
            stopped=stopped,
        )
        if remember:
            self.turns.append((question, answer.text))
            self.answers.append(answer)
        return answer

    def compare(self, question: str, *, on_text: Callable[[str], None] | None = None) -> tuple[Answer, Answer]:
        """The same question without compression and with it; the compressed answer joins the conversation."""
        kept = self.aot
        self.aot = None
        try:
            whole = self.ask(question, remember=False)
        finally:
            self.aot = kept
        return whole, self.ask(question, on_text=on_text)

    def forget(self) -> None:
        """Drops the turns and keeps the video."""
        self.turns.clear()

    def _generate(self, ids: torch.Tensor, stream: TextStream) -> bool:
        """Runs the model; True when the person stopped it."""
        sampled = {"do_sample": True, "temperature": self.temperature} if self.temperature > 0 else {}
        try:
            self.model.generate(
                ids,
                images=[self.loaded.features],
                modalities=["video"],
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.max_new_tokens,
                eos_token_id=self._stops(),
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
                streamer=stream,
                **(sampled or {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}),
            )
        except KeyboardInterrupt:
            if stream.first is None:
                raise
            return True
        return False

    def _prompt(self, question: str) -> torch.Tensor:
        """(1, L) ids of the conversation with the open question, the video in its first turn."""
        conversation = conv_templates[self.template].copy()
        earlier = [] if self.manner.single_turn else self.turns
        asked = [*earlier, (question, None)]
        for number, (user, reply) in enumerate(asked):
            # a tag in what was said is text: the video has one place
            user, reply = (text and text.replace(DEFAULT_IMAGE_TOKEN, "< image >") for text in (user, reply))
            user = self.manner.put(user)
            if number == 0:
                times = time_text(self.loaded.video) + "\n" if self.sampling.tell_times else ""
                user = f"{DEFAULT_IMAGE_TOKEN}\n{times}{user}"
            conversation.append_message(conversation.roles[0], user)
            conversation.append_message(conversation.roles[1], reply)
        ids = tokenizer_image_token(conversation.get_prompt(), self.tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
        return ids.unsqueeze(0).to(self.model.device)

    def _check_length(self, prompt: int) -> None:
        """Raises ChatError when prompt, video and the longest answer do not fit the model's context."""
        before = self.loaded.before
        # methods inside the language model let every token in
        reduced = self.aot and self.aot.retention and not is_in_llm(self.aot)
        share = self.aot.retention if reduced else 1.0
        newlines = self._newlines() if reduced else before.newline
        needed = prompt + int(share * before.visual) + newlines + self.max_new_tokens
        limit = getattr(self.model.config, "tokenizer_model_max_length", None) or self.context_length
        limit = min(limit, self.context_length)
        if needed > limit:
            raise ChatError(
                f"The conversation needs up to {needed} tokens and the model takes {limit}; "
                "lower the retention, allow shorter answers, or start afresh with /clear."
            )

    def _newlines(self) -> int:
        """Newline tokens of the reduced video, or of the whole where the number is not known beforehand."""
        before, frames = self.loaded.before, len(self.loaded.video.times)
        position = getattr(self.model.config, "mm_newline_position", None) or "one_token"
        try:
            count = self.aot.newline_count(frames, before.visual // frames, newline_position=position)
        except AOTError:
            return before.newline
        return min(count, before.newline)

    def _stops(self) -> list[int]:
        """Ids that end an answer."""
        stops = self.model.generation_config.eos_token_id
        stops = {*stops} if isinstance(stops, list) else {stops}
        stops |= {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("<|im_end|>")}
        return sorted(stop for stop in stops if stop is not None)

    def _renew(self) -> None:
        """Reads a long video again when the compression has changed: what was streamed holds the tokens of one."""
        loaded = self.loaded
        long = self.stream_above is not None and len(loaded.video.times) > self.stream_above
        held = loaded.features.config if loaded.streamed else None
        if long and held != (self.aot if streams(self.aot) else None):
            self.loaded = self._read(loaded.path)

    def _compress_ms(self) -> float:
        """Milliseconds of compression: of the last call, or once for a streamed video."""
        if self.loaded.streamed:
            return self.loaded.timings["compress"]
        return self.model.last_timing["compress"] if self.aot else 0.0

    def _after(self) -> Tokens:
        """Tokens of the last call."""
        if self.aot is None:
            return self.loaded.before
        compressed = self.model.last_compression[-1]
        compressed.check()  # on a GPU nobody has looked at the values yet, and the counts wait for it anyway
        return Tokens(compressed.num_visual, compressed.num_newlines)


def _decoding(progress):
    """progress(stage, done, total) as the progress(done, total) of a reader."""
    return progress and (lambda done, total: progress("decode", done, total))
