"""One conversation about one video: the video is encoded once, compressed and asked as often as wanted.

`ChatSession.set_video` is the way of a video to its features: from the cache, else decoded and encoded, or compressed
while it is decoded. `ChatSession.ask` is the way of a question to its answer.
Nothing here prints or reads; a terminal, a web page or a test drives it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aot import AOTConfig, AOTError, CompressedVideo
from aot.deprecated import renamed_attribute, renamed_keywords
from aot.methods.in_llm import is_in_llm
from aot.stream import tokens_at
from llava.chat.answer import Answer, ChatError, Loaded, Picture, TextStream, Tokens
from llava.chat.prompt import Message, PromptStyle, Sampling, default_prompt_style, default_sampling, prompt_ids
from llava.chat.prompt_cache import KEPT, PromptCache, ReadPrompt
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.decoders.pillow_reader import PICTURES, read_picture
from llava.mm_utils import process_images
from llava.model.compression import capture_plan
from llava.model.long_video import Prefetcher, can_stream, compress_stream, pixel_chunks
from llava.model.pruning import CACHE
from llava.model.timing import peak_memory
from llava.video import FrameStream, Video, load_video, open_video, time_text
from llava.video_cache import VideoCache

Progress = Callable[[str, int, int], None]  # (stage "decode" or "tower", done, total); total 0 when unknown


@dataclass
class ChatSession:
    """A model, the video it looks at, and the turns so far.

    compression: the one in force, None for none. stream_above: a video of more frames is compressed while it is read
    (see `aot.VideoStream`), where the compression can be had so: memory does not grow with its length, and another
    compression reads the video again. None: every video is encoded as a whole.
    prompts_kept: how many keep their keys and values, so that the next question reads alone what is new in it.
    cache: keeps encoded videos on the disk, None for not at all.
    Raises ChatError, VideoError or AOTError (all ValueError) with one clear sentence.
    """

    model: torch.nn.Module
    tokenizer: object
    image_processor: object
    context_length: int
    compression: AOTConfig | None = None
    sampling: Sampling | None = None
    prompt_style: PromptStyle | None = None
    force_sample: bool = False
    decoder: str = "auto"
    stream_above: int | None = None
    prompts_kept: int = KEPT
    cache: VideoCache | None = None
    template: str = "qwen_1_5"
    max_new_tokens: int = 512
    temperature: float = 0.0
    loaded: Loaded | None = None
    images: list[Picture] = field(default_factory=list)
    turns: list[tuple[str, str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    _less = "fewer frames"  # what makes a video shorter
    _visual_token = IMAGE_TOKEN_INDEX  # what stands for a video in the ids of a prompt

    def __post_init__(self):
        if self.template not in conv_templates:
            known = ", ".join(conv_templates)
            raise ChatError(f"There is no conversation template {self.template!r}; choose one of {known}.")
        self.sampling = self.sampling or default_sampling(self.model.config)
        self.prompt_style = self.prompt_style or default_prompt_style(self.model.config)
        # what /retention goes back to after the compression was off
        self._base = self.compression or AOTConfig()
        self._prompts = PromptCache(self.model.config.get_text_config(), self._visual_token, most=self.prompts_kept)

    # the video and the images

    def set_video(self, path: str, progress: Progress | None = None) -> Loaded:
        """Decodes and encodes a video and starts a new conversation; on an error everything stays as it was."""
        self.loaded = self._load(path, progress)
        self.forget()
        return self.loaded

    def encode(self, path: str, video: Video, *, decode_ms: float = 0.0) -> Loaded:
        """As `set_video`, of a video that was read already."""
        self.loaded = self._encode(path, video, decode_ms)
        self.forget()
        return self.loaded

    def open_video(self, path: str, **limits) -> AbstractContextManager[FrameStream]:
        """The frames that the model looks at, one after another; limits: more arguments of `open_video`."""
        return open_video(path, **self._frame_choice(), **limits)

    def _load(self, path: str, progress: Progress | None = None) -> Loaded:
        """A video from the cache, else read and kept there, unless its file changed meanwhile."""
        if self.cache is None:
            return self._read(path, progress)
        started, may_stream = time.perf_counter(), self._may_stream
        keys = {streamed: self._cache_key(path, streamed) for streamed in ((True, False) if may_stream else (False,))}
        for streamed, key in keys.items():
            found = self.cache.load(key, self.model.device)
            if found is not None and (streamed or not may_stream or len(found[0].times) <= self.stream_above):
                self.model.reset_statistics()
                paid = {"decode": 1e3 * (time.perf_counter() - started), **({"compress": 0.0} if streamed else {})}
                return replace(self._loaded(path, *found, **paid), cached=True)
        loaded = self._read(path, progress)
        if self._cache_key(path, loaded.streamed) == keys[loaded.streamed]:
            self.cache.save(keys[loaded.streamed], path, loaded.video, loaded.features)
        return loaded

    @property
    def _may_stream(self) -> bool:
        """Is a video of as many frames as are asked for compressed while it is decoded?"""
        above = self.stream_above
        return above is not None and self.sampling.num_frames > above and can_stream(self.compression)

    def _cache_key(self, path: str, streamed: bool) -> str:
        """What a video's features depend on, or its kept tokens where it is streamed."""
        plan = capture_plan(self.model.get_vision_tower(), self._base)
        settings = self.compression.to_dict() if streamed else None
        return self.cache.key(path, frames=self._frame_choice(), captured=asdict(plan), settings=settings)

    def _read(self, path: str, progress: Progress | None = None) -> Loaded:
        """A video decoded and encoded, or compressed while it is decoded when it is longer than `stream_above`."""
        decoding = progress and partial(progress, "decode")
        started = time.perf_counter()
        if self._may_stream:
            with self.open_video(path, progress=decoding) as frames:
                if len(frames.times) > self.stream_above:
                    return self._compress_while_decoding(path, frames)
        video = load_video(path, progress=decoding, **self._frame_choice())
        if progress:
            progress("tower", 0, 0)
        return self._encode(path, video, 1e3 * (time.perf_counter() - started))

    def _frame_choice(self) -> dict:
        """Which frames the model looks at, as `load_video` and `open_video` are told."""
        sampled = {name: getattr(self.sampling, name) for name in ("num_frames", "fps", "by_change")}
        return sampled | {"force_sample": self.force_sample, "repeat": self.force_sample, "decoder": self.decoder}

    @torch.inference_mode()
    def _encode(self, path: str, video: Video, decode_ms: float) -> Loaded:
        # attention is captured even while compression is off: /retention may turn it on for this video
        self.model.config.aot = self._base
        pixels = self.image_processor.resize(video.frames)
        features = self.model.encode_video(pixels.to(self.model.device))
        return self._loaded(path, video, features, decode=decode_ms)

    @torch.inference_mode()
    def _compress_while_decoding(self, path: str, frames: FrameStream) -> Loaded:
        self.model.config.aot = self.compression
        pinned = self.model.device.type == "cuda"
        with Prefetcher(pixel_chunks(frames, self.image_processor), frames.stop, pinned=pinned) as chunks:
            compressed = compress_stream(self.model, chunks, frames=len(frames.times))
        spent = self.model.last_timing
        return self._loaded(path, frames, compressed, decode=spent["wait"], compress=spent["compress"])

    def _loaded(self, path: str, video: Video | FrameStream, features, **timings: float) -> Loaded:
        timings["tower"] = self.model.last_timing["tower"]
        before = Tokens(*self.model.uncompressed_count(len(video.times)))
        return Loaded(path, video, features, before, timings, self.model.last_tower_flops)

    @torch.inference_mode()
    def add_image(self, path: str) -> Picture:
        """Puts an image beside the others, in front of the video, and starts a new conversation."""
        image = Image.fromarray(read_picture(Path(path), PICTURES)[0])
        pixels = process_images([image], self.image_processor, self.model.config)[0].to(self.model.device)
        mark, prepare = torch.tensor([[IMAGE_TOKEN_INDEX]]), self.model.prepare_inputs_labels_for_multimodal
        embeds = prepare(mark.to(pixels.device), None, None, None, None, [pixels], ["image"], [image.size])[4]
        picture = Picture(path, pixels, image.size, embeds.shape[1])
        self.images.append(picture)
        self.turns.clear()
        return picture

    # the compression

    def set_retention(self, retention: float) -> None:
        """Keeps this share of the tokens from now on; 1 turns compression off, unless there is another bound.

        The video stays encoded, but one that was streamed is read again for the next question.
        """
        every = retention == 1 and self._base.max_tokens is None and self._base.distortion is None
        self.compression = self._every_token if every else self._base.replace(retention=retention)

    def set_max_tokens(self, count: int | None) -> None:
        """Keeps at most so many tokens from now on, and no more than the retention in force; None takes that away."""
        if count is None and self._base.max_tokens is None:
            return  # a preset with counts of its own stays in force
        share = None if self.compression is None else self.compression.retention
        self._base = self._base.replace(max_tokens=count)
        self.set_retention(1.0 if share is None else share)

    @property
    def _every_token(self) -> AOTConfig | None:
        """What is in force where no token is dropped: the tower still encodes as it was told to."""
        reuse = self._base.tower_reuse
        return None if reuse is None else AOTConfig(retention=1.0, tower_reuse=reuse)

    @torch.inference_mode()
    def traced(self) -> CompressedVideo:
        """The video under the compression in force, with what pictures of it need; asks nothing."""
        if self.loaded is None:
            raise ChatError("There is no video to draw yet; give one first.")
        self.model.config.aot = self.compression or AOTConfig(retention=1.0)
        return self.model.video_tokens(self.loaded.features, trace=True)[1]

    @property
    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames and times of the video, one for each frame of `traced`; one from the cache is decoded for it."""
        if self.loaded.cached:
            return load_video(self.loaded.path, **self._frame_choice()).frames, self.loaded.video.times
        return self.loaded.video.frames, self.loaded.video.times

    @property
    def tower_dtype(self) -> torch.dtype:
        return self.model.get_vision_tower().dtype

    # the questions

    def ask(self, question: str, *, on_text: Callable[[str], None] | None = None, remember: bool = True) -> Answer:
        """Answers a question about the video; on_text gets the text as it comes. remember: keep the turn."""
        if self.loaded is None and not self.images:
            raise ChatError("There is no video to ask about yet; give one first, with /video PATH.")
        if not question.strip():
            raise ChatError("The question is empty; type one.")
        try:
            question.encode()
        except UnicodeEncodeError as error:  # bytes of another encoding become lone surrogates
            raise ChatError("The question is no UTF-8 text; set the terminal to UTF-8 and type it again.") from error
        started = time.perf_counter()
        # the prompt: the turns so far and the question, with a mark where the video goes
        ids = self._prompt(question)
        self._check_length(ids.shape[1])
        # the video: encoded already, unless it was compressed while it was read, for other settings
        if self.loaded and self._must_reload():
            self.loaded = self._load(self.loaded.path)
        # the answer, behind what the model has read for an earlier question
        stream = TextStream(self.tokenizer, on_text)
        read = self._prompts.take(ids[0].tolist(), [self.loaded, *self.images], self.compression)
        held = read.places
        stopped = self._generate(ids, stream, read)
        if not stopped:
            self._prompts.keep(read, [*ids[0].tolist(), *stream.tokens[:-1]], self.compression)
        total = 1e3 * (time.perf_counter() - started)
        # the cost
        compressed, before = read.video, self.loaded.before if self.loaded else Tokens(0, 0)
        after = Tokens(compressed.num_visual, compressed.num_newlines) if compressed else before
        pictures, text = sum(image.tokens for image in self.images), int((ids != self._visual_token).sum())
        paid = self.loaded.timings if self.loaded else {"decode": 0.0, "tower": self.model.last_timing["tower"]}
        if "compress" not in paid:  # a streamed video is compressed once, any other when the language model reads it
            paid = {**paid, "compress": 0.0 if held else self.model.last_timing["compress"]}
        answer = Answer(
            question=question,
            text=stream.text().strip(),
            frames=self.loaded.frames if self.loaded else 0,
            before=before,
            after=after,
            settings=None if self.compression is None else self.compression.to_dict(),
            timings={
                **{stage: paid[stage] for stage in ("decode", "tower", "compress") if stage in paid},
                "first_token": 1e3 * (stream.first - started) if stream.first else total,
                "total": total,
            },
            peak_memory=peak_memory(),
            new_tokens=len(stream.tokens),
            stopped=stopped,
            prefilled=text + after.visual + after.newline + pictures - held,
            image_tokens=pictures,
            bound=compressed.bound if compressed else "all",
            tower_flops=self.loaded.tower_flops if self.loaded else self.model.last_tower_flops,
            until=float(self.loaded.video.times[-1]) if self.loaded else None,
        )
        if remember:
            self.turns.append((question, answer.text))
            self.answers.append(answer)
        return answer

    def compare(self, question: str) -> tuple[Answer, Answer]:
        """The same question without compression and with it; the compressed answer joins the conversation."""
        with self.uncompressed():
            whole = self.ask(question, remember=False)
        return whole, self.ask(question)

    @contextmanager
    def uncompressed(self) -> Iterator[None]:
        """No compression inside."""
        compression, self.compression = self.compression, self._every_token
        try:
            yield
        finally:
            self.compression = compression

    def forget(self) -> None:
        """Drops the turns and keeps video and images, which the language model reads again for the next question."""
        self._prompts.clear()
        self.turns.clear()

    @property
    def token_limit(self) -> int:
        """Tokens that prompt and answer may take together."""
        limit = getattr(self.model.config, "tokenizer_model_max_length", None) or self.context_length
        return min(limit, self.context_length)

    def _prompt(self, question: str) -> torch.Tensor:
        """(1, L) ids of the conversation with the open question, images and video in its first turn."""
        earlier = [] if self.prompt_style.single_turn else self.turns
        messages = [Message(*said) for turn in earlier for said in zip(("user", "assistant"), turn, strict=True)]
        messages.append(Message("user", question))
        shown = (*(image.path for image in self.images), *(["video"] if self.loaded else []))
        messages[0] = Message("user", messages[0].text, shown)
        times = {"video": time_text(self.loaded.video)} if self.loaded and self.sampling.tell_times else {}
        ids = prompt_ids(messages, self.tokenizer, template=self.template, style=self.prompt_style, times=times)
        return ids.unsqueeze(0).to(self.model.device)

    def _check_length(self, prompt: int) -> None:
        """Raises ChatError when prompt, video and the longest answer do not fit the model's context."""
        if (needed := self._needed_tokens(prompt)) > self.token_limit:
            raise ChatError(
                f"The conversation needs up to {needed} tokens and the model takes {self.token_limit}; lower the "
                f"retention, give {self._less}, allow shorter answers, or start afresh with /clear."
            )

    def _needed_tokens(self, prompt: int) -> int:
        """Tokens of a prompt of so many ids with video and images, and of the longest answer."""
        before = self.loaded.before if self.loaded else Tokens(0, 0)
        visual, newlines = before.visual, before.newline
        # methods inside the language model let every token in
        shares = self.compression and self.compression.num_anchors is None and not is_in_llm(self.compression)
        if self.loaded and self.loaded.streamed and not self._must_reload():
            visual, newlines = self.loaded.features.num_visual, self.loaded.features.num_newlines
        elif self.loaded and shares:
            frames = len(self.loaded.video.times)
            position = getattr(self.model.config, "mm_newline_position", None) or "one_token"
            try:
                count = self.compression.newline_count(frames, before.visual // frames, newline_position=position)
            except AOTError:  # not known before the video is compressed
                count = newlines
            visual, newlines = self.compression.budget(frames, visual // frames), min(count, newlines)
        return prompt + visual + newlines + sum(image.tokens for image in self.images) + self.max_new_tokens

    def _must_reload(self) -> bool:
        """Was a long video encoded under another compression than the one in force?"""
        if self.stream_above is None or len(self.loaded.video.times) <= self.stream_above:
            return False
        held = self.loaded.features.config if self.loaded.streamed else None
        return held != (self.compression if can_stream(self.compression) else None)

    def _generate(self, ids: torch.Tensor, stream: TextStream, read: ReadPrompt) -> bool:
        """Runs the model, which goes on behind what it has read; True when the person stopped it."""
        self.model.config.aot = self.compression  # by which it compresses the video, whose tokens go where the mark is
        new, given = ids[:, len(read.ids) :], {}
        if unread := self._visual_token in new:  # images, and the video from where it is not read
            shown = [(image.pixels, "image", image.size) for image in self.images]
            if self.loaded:
                video = self.loaded.features
                shown.append((tokens_at(video, slice(read.begun, None)) if read.begun else video, "video", (1, 1)))
            pixels, kinds, sizes = map(list, zip(*shown, strict=True))
            given = {"images": pixels, "modalities": kinds, "image_sizes": sizes}
        # ids that end an answer
        stops = self.model.generation_config.eos_token_id
        stops = {*stops} if isinstance(stops, list) else {stops}
        stops |= {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("<|im_end|>")}
        given |= {"attention_mask": torch.ones_like(new), "eos_token_id": sorted(s for s in stops if s is not None)}
        stopped = self._answered(stream, read, inputs=new, **given)
        if unread and self.loaded and self.compression:
            read.video = video if read.begun else self.model.last_compression[-1]
        return stopped

    def _answered(self, stream: TextStream, read: ReadPrompt, **inputs) -> bool:
        """Lets the model answer inputs behind what it has read; True when the person stopped it."""
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        chosen = {"do_sample": True, "temperature": self.temperature} if self.temperature > 0 else greedy
        if read.cache is not None:
            inputs[CACHE] = read.cache
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        chosen |= {"max_new_tokens": self.max_new_tokens, "pad_token_id": end if pad is None else pad}
        try:
            self.model.generate(**inputs, **chosen, streamer=stream)
        except KeyboardInterrupt:
            if stream.first is None:
                raise
            return True
        return False

    aot = renamed_attribute("aot", "compression")


ChatSession.__init__ = renamed_keywords(aot="compression")(ChatSession.__init__)
