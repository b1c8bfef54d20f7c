"""One conversation about one video: the video is encoded once, compressed and asked as often as wanted.

Nothing here prints or reads; a terminal, a web page or a test drives it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from aot import AOTConfig, CompressedVideo, pooled_grid
from aot.baselines.in_llm import is_in_llm
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token
from llava.serve.family import Manner, Sampling, default_manner, default_sampling
from llava.serve.memory import peak_memory
from llava.serve.streaming import TextStream
from llava.video import Video, load_video, time_text


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
    """A video that has been decoded and encoded."""

    path: str
    video: Video
    features: object
    before: Tokens
    timings: dict[str, float]


@dataclass
class ChatSession:
    """A model, the video it looks at, and the turns so far.

    aot: the compression in force, None for none. Raises ChatError, VideoError or AOTError (all ValueError)
    with one clear sentence.
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
        started = time.perf_counter()
        video = self.read_video(path, progress)
        return self.encode(path, video, decode_ms=1e3 * (time.perf_counter() - started), progress=progress)

    def read_video(self, path: str, progress: Callable[[str, int, int], None] | None = None) -> Video:
        """Decodes the frames that the model looks at; touches neither the model nor the conversation."""
        return load_video(
            path,
            num_frames=self.sampling.num_frames,
            fps=self.sampling.fps,
            force_sample=self.force_sample,
            decoder=self.decoder,
            progress=progress and (lambda done, total: progress("decode", done, total)),
        )

    @torch.inference_mode()
    def encode(
        self,
        path: str,
        video: Video,
        *,
        decode_ms: float = 0.0,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Loaded:
        """Encodes a video that was read and starts a new conversation about it."""
        started = time.perf_counter()
        if progress:
            progress("tower", 0, 0)
        # attention is captured even while compression is off: /retention may turn it on for this video
        self.model.config.aot = self._base.to_dict()
        pixels = self.image_processor.preprocess(video.frames, return_tensors="pt")["pixel_values"]
        features = self.model.encode_video(pixels.to(self.model.device))
        timings = {
            "decode": decode_ms,
            "tower": self.model.last_timing["tower"],
            "projector": self.model.last_timing["projector"],
            "encode": 1e3 * (time.perf_counter() - started),
        }
        self.loaded = Loaded(path, video, features, self._uncompressed(features), timings)
        self.turns.clear()
        return self.loaded

    @torch.inference_mode()
    def traced(self) -> CompressedVideo:
        """The video under the compression in force, with what pictures of it need; asks nothing."""
        if self.loaded is None:
            raise ChatError("There is no video to draw yet; give one first.")
        settings = self.aot or AOTConfig(retention=1.0)
        self.model.config.aot = settings.to_dict()
        _, compressed = self.model.video_tokens(self.loaded.features, trace=True)
        return compressed

    def set_retention(self, retention: float) -> None:
        """Keeps this share of the tokens from now on; 1 turns compression off. The video stays encoded."""
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
        self.model.config.aot = None if self.aot is None else self.aot.to_dict()
        stream = TextStream(self.tokenizer, on_text)
        stopped = self._generate(ids, stream)
        total = 1e3 * (time.perf_counter() - started)
        before = self.loaded.before
        answer = Answer(
            question=question,
            text=stream.text().strip(),
            frames=len(self.loaded.video.frames),
            before=before,
            after=self._after(),
            settings=self.model.config.aot,
            timings={
                "decode": self.loaded.timings["decode"],
                "tower": self.loaded.timings["tower"],
                "compress": self.model.last_timing["compress"] if self.aot else 0.0,
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
        needed = prompt + int(share * before.visual) + before.newline + self.max_new_tokens
        limit = getattr(self.model.config, "tokenizer_model_max_length", None) or self.context_length
        limit = min(limit, self.context_length)
        if needed > limit:
            raise ChatError(
                f"The conversation needs up to {needed} tokens and the model takes {limit}; "
                "lower the retention, allow shorter answers, or start afresh with /clear."
            )

    def _stops(self) -> list[int]:
        """Ids that end an answer."""
        stops = self.model.generation_config.eos_token_id
        stops = {*stops} if isinstance(stops, list) else {stops}
        stops |= {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("<|im_end|>")}
        return sorted(stop for stop in stops if stop is not None)

    def _uncompressed(self, features) -> Tokens:
        """Tokens the video takes without compression."""
        config = self.model.config
        kept, config.aot = getattr(config, "aot", None), None
        try:
            tokens, _ = self.model.video_tokens(features)
        finally:
            config.aot = kept
        rows, columns = pooled_grid(tuple(features.grid), getattr(config, "mm_spatial_pool_mode", "bilinear"))
        visual = features.features.shape[0] * rows * columns
        return Tokens(visual, len(tokens) - visual)

    def _after(self) -> Tokens:
        """Tokens of the last call."""
        if self.aot is None:
            return self.loaded.before
        compressed = self.model.last_compression[-1]
        return Tokens(compressed.num_visual, compressed.num_newlines)
