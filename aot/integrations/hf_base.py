"""Models of transformers whose videos are shortened on the way into their language model: what all families share.

The model itself encodes, puts features at their placeholders and makes positions for the whole prompt. A hook before
its language model then compresses the videos, and of all that belongs to a place (embedding, position, mask, DeepStack)
leaves that of kept places: a kept token stays at its own placeholder. The key-value cache remembers how long the prompt
was, so that later steps, which `generate` counts on by itself, are put right before the model sees them.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..compress import compress
from ..config import AOTConfig
from ..deepstack import merge_deepstack
from ..errors import AOTError
from ..registry import get_method
from ..types import CompressedVideo, TokenKind
from . import hf_generate
from .duplicate_frames import TowerWork, encode_once, encoding_once
from .hf_generate import APPLIED, EncodedVideo, EncodedVideos, GenerateCall, KeptVideo, State, entries
from .kv_cache import cache_name, take_cache
from .pruned_prompt import (
    PrunedPrompt,
    kept_columns,
    left_pad,
    positions,
    shortened_labels,
    shortened_levels,
    videos_per_row,
)
from .vision_outputs import Reader, attention_layers, watch_attention
from .wrapped_method import WrappedMethod

_pending: ContextVar["Step | None"] = ContextVar("aot_pending", default=None)


@dataclass
class Step:
    """A call of the model on its way through it.

    ids, mask: (B, n) input ids behind the cached prompt, and which of them count. past_length, past: tokens of that
    prompt as the caller counts them, and what the cache remembers of it. cache_mask: (B, cached). encoded: the call's
    videos, once there are any. frame_ranges: which images are the frames of a video, from the caller. labels: those
    left. position_ids: (3, B, n), None where positions count tokens. prompt: what the cache is to remember.
    """

    model: Any
    family: "Family"
    ids: torch.Tensor
    mask: torch.Tensor
    past_length: int
    past: PrunedPrompt
    cache_mask: torch.Tensor
    encoded: EncodedVideos | None
    has_video: bool
    frame_ranges: Sequence[range] = ()
    labels: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    prompt: PrunedPrompt | None = None

    def rows(self) -> list[list[int]]:
        """The videos of each prompt; AOTError when its placeholders are not theirs."""
        whole, _ = hf_generate.whole_prompt(self.encoded, self.ids, self.past_length)
        sizes = [self.family.placeholder_count(video) for video in self.encoded.videos]
        return videos_per_row(whole, self.family.placeholder(self.model), sizes, repeats=self.encoded.repeats)

    def set_positions(self, kwargs: dict, mask: torch.Tensor, position_ids: torch.Tensor | None) -> torch.Tensor:
        """Puts mask and positions of the tokens (B, n') that come now in kwargs; returns the mask (B, L') of all."""
        full = torch.cat([self.cache_mask.to(mask), mask], dim=1)
        count = positions(full, mask.shape[1])
        if position_ids is not None:  # three planes, behind a row without gaps by which masks are made
            count = torch.cat([count.unsqueeze(0).to(position_ids), position_ids])
        kwargs |= {"attention_mask": full, "position_ids": count}
        if kwargs.get("cache_position") is not None:  # transformers 4
            kwargs["cache_position"] = torch.arange(self.cache_mask.shape[1], full.shape[1], device=full.device)
        return full

    def pruned_prompt(self, full: torch.Tensor, videos_end: int) -> PrunedPrompt:
        """What the cache is to remember afterwards; full: (B, L') mask of all its entries."""
        following = None
        if self.position_ids is not None:
            ends = self.mask * torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)
            following = self.position_ids.amax(0).gather(1, ends.argmax(1, keepdim=True)) + 1
        return PrunedPrompt(self.past_length + self.ids.shape[1], full, following, videos_end)


class Family(ABC):
    """The hooks on models of one kind, and what `aot.apply` does with them.

    names: classes of transformers. modality: as what it encodes frames, "video" or "image". argument: of the model's
    call, that says which images are the frames of a video; None when it has videos. Subclasses say how a
    family encodes its videos and what a place is. reuses: its tower can reuse patches in time, by hooks of `watch`.
    """

    names: tuple[str, ...] = ()
    modality: str = "video"
    argument: str | None = None
    reuses: bool = False

    def check(self, model: Any, needs: Sequence[str]) -> None:
        """AOTError for a model whose tower cannot give these outputs."""
        tower = self.tower(model)
        Reader(tower, needs, len(attention_layers(tower)))

    def watch(self, model: Any) -> list:
        """Hooks on the tower, as handles."""
        return watch_attention(attention_layers(self.tower(model)))

    @abstractmethod
    def encode(self, inner: Any, original: Any, args: tuple, kwargs: dict, needs: Sequence[str]) -> tuple[Any, list]:
        """What the model's own method `original` returns, and each video as EncodedVideo with what a method needs."""

    def compress(self, model: Any, video: EncodedVideo, config: AOTConfig, *, trace: bool = False) -> CompressedVideo:
        """One video, compressed; its tokens are as the language model gets them, without newlines."""
        settings = {"grid": video.grid, "extras": video.outputs, "trace": trace, **self.arrangement(model)}
        return compress(video.features, config=config, **settings)

    def arrangement(self, model: Any) -> dict[str, Any]:
        """Pooling and newlines of a video in the language model, as `aot.compress` takes them."""
        return {"pool": None, "newline_position": "no_token"}

    def kept(self, model: Any, video: EncodedVideo, config: AOTConfig) -> KeptVideo:
        """One video, compressed, and its DeepStack rows, merged as its tokens are."""
        found = self.compress(model, video, config, trace=bool(video.levels))
        return KeptVideo(replace(found, trace=None), tuple(merge_deepstack(found, level) for level in video.levels))

    def placeholder_count(self, video: EncodedVideo) -> int:
        """How many placeholders a video has."""
        return video.features.shape[0] * video.features.shape[1]

    def placeholder_index(self, compressed: CompressedVideo) -> torch.Tensor:
        """(S,) which of its video's placeholders each token stands at."""
        height, width = compressed.grid
        return (compressed.frame * height + compressed.position[:, 0]) * width + compressed.position[:, 1]

    def position_ids(self, step: Step, kwargs: dict) -> tuple[torch.Tensor | None, bool]:
        """Position ids of the step, None where they count tokens; is the cache to remember the prompt's end?"""
        hf_generate.check_positions(kwargs.get("position_ids"), kwargs, step.past_length, step.mask)
        return None, False

    def tiles(self, video: EncodedVideo) -> int:
        """How many entries of what the model's own method returns are this video."""
        return 1

    def cannot_repeat(self, model: Any, ids: torch.Tensor, inputs: dict) -> bool:
        """Does transformers 4 mix up the videos of these prompts (B, L) when it repeats them for beams?"""
        return False

    def tower(self, model: Any) -> nn.Module:
        """The vision tower."""
        inner = model.model
        return inner.visual if hasattr(inner, "visual") else inner.vision_tower

    def placeholder(self, model: Any) -> int:
        """The placeholder of a frame."""
        return getattr(model.config, f"{self.modality}_token_id")

    def base(self, model: nn.Module) -> type | None:
        """The class of transformers that a model is of or made from; None when it is another's."""
        return next((kind for kind in type(model).__mro__ if kind.__name__ in self.names), None)

    def fits(self, model: nn.Module) -> bool:
        """Is this one of the classes, or one made from it?"""
        return self.base(model) is not None

    def settings(self, model: nn.Module) -> AOTConfig | None:
        """The applied settings, None when there are none."""
        state = model.__dict__.get(APPLIED)
        return None if state is None else state.config

    def trace(self, model: Any, inputs: Mapping[str, Any]) -> list[CompressedVideo]:
        """What becomes of the videos of a call's inputs, with traces; the language model is not asked."""
        inner, state = model.model, model.__dict__.get(APPLIED)
        if state is None:
            raise AOTError("Reduction was taken off this model; call aot.apply again before trace.")
        given = inputs.get("pixel_values_videos" if self.modality == "video" else "pixel_values")
        if given is None:
            return []
        original = getattr(type(inner), f"get_{self.modality}_features")
        _, pixels, *others = inspect.signature(original).parameters.values()
        call = {p.name: inputs[p.name] for p in others if p.name in inputs}
        for p in others:  # transformers 4 takes them from the model's forward
            if p.default is p.empty and p.name not in call and hasattr(inner.config, p.name):
                call[p.name] = getattr(inner.config, p.name)
        token = hf_generate.generate_call.set(GenerateCall(inputs["input_ids"], 0, inputs.get(self.argument) or ()))
        try:
            with torch.no_grad():
                videos = self._encode(inner, original, (given,), call)[1]
        finally:
            hf_generate.generate_call.reset(token)
        return [self.compress(model, video, state.config, trace=True) for video in videos if not video.still]

    def cost(self, model: nn.Module) -> tuple[float, float]:
        """Of the last videos: seconds that compressing them took, and the share of the tower's operations spent."""
        state = model.__dict__.get(APPLIED)
        return (0.0, 1.0) if state is None else (state.seconds, state.work.share)

    def last(self, model: nn.Module) -> list[CompressedVideo]:
        """What became of each video of the last prompt."""
        state = model.__dict__.get(APPLIED)
        return [] if state is None else state.last

    def attach(self, model: Any, config: AOTConfig) -> None:
        """Puts the hooks on this instance, or changes the settings of those that are there."""
        method = get_method(config.method)
        if method.in_llm:
            raise AOTError(
                f"Method {config.method!r} drops tokens inside the language model, which transformers' own model does "
                "not offer; choose one that acts before it, or use LlavaQwenForCausalLM."
            )
        if config.tower_reuse and not self.reuses:
            raise AOTError(
                f"The vision tower of {type(model).__name__} encodes equal frames once and knows no more; set "
                "tower_reuse=0, leave it out, or use a Qwen-VL model or LlavaQwenForCausalLM."
            )
        self.check(model, config.requires)
        if APPLIED in model.__dict__:
            model.__dict__[APPLIED].config = config
            return
        forward, inner = self.base(model).forward, model.model
        cache_name(forward)  # raises for a release that calls it otherwise
        encoder = f"get_{self.modality}_features"
        methods = [
            WrappedMethod(model, "generate", partial(hf_generate.generate, forward, self.argument)),
            WrappedMethod(inner, encoder, self._encoding),
        ]
        if not hasattr(model, "_expand_multimodal_outputs"):
            repeat = partial(hf_generate.repeat, self.cannot_repeat)
            methods.append(WrappedMethod(model, "_expand_inputs_for_generation", repeat))
        inner.__dict__[APPLIED] = model.__dict__[APPLIED] = state = State(config)
        try:
            for method in methods:
                method.put()
                state.methods.append(method)
            state.handles += encode_once(self.tower(model))  # before the next ones, which see what it leaves
            state.handles += self.watch(model)
            state.handles += [
                model.register_forward_pre_hook(self._before, with_kwargs=True),
                inner.language_model.register_forward_pre_hook(_shorten, with_kwargs=True),
                model.register_forward_hook(_after, with_kwargs=True, always_call=True),
            ]
        except BaseException:
            self.detach(model)
            raise

    def detach(self, model: Any) -> None:
        """Takes hooks and wrapped methods off this instance. AOTError while it generates, in another thread."""
        state = model.__dict__.get(APPLIED)
        if state is None:
            return
        state.remove()
        del model.__dict__[APPLIED], model.model.__dict__[APPLIED]

    def _encode(self, inner: Any, original: Any, args: tuple, kwargs: dict) -> tuple[Any, list, TowerWork]:
        """`encode` with what the settings in force ask for, and what it cost the tower."""
        config = inner.__dict__[APPLIED].config
        with encoding_once(config.tower_reuse) as work:
            return *self.encode(inner, original, args, kwargs, config.requires), work

    def _encoding(self, original: Any, inner: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's own encoding; leaves with its result, or with the step, what compression needs."""
        result, encoded, inner.__dict__[APPLIED].work = self._encode(inner, original, args, kwargs)
        if not isinstance(result, (tuple, torch.Tensor)):
            setattr(result, hf_generate.ENCODED, encoded)
        if (call := hf_generate.generate_call.get()) is not None:
            call.encoded = encoded
        if (step := _pending.get()) is not None and step.has_video:
            step.encoded = EncodedVideos(encoded)
            step.rows()  # tells what does not fit before the model does
        return result

    def _before(self, model: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Forward pre-hook of the model: the tokens that its cache does not hold; None leaves the call as it is."""
        _pending.set(None)
        names = list(inspect.signature(type(model).forward).parameters)[1:] if args else []
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        cache, token, call = take_cache(dict(kwargs)), self.placeholder(model), hf_generate.generate_call.get()
        # transformers 5 encodes before it generates
        ready = (kwargs.get("mm_encoder_outputs") or {}).get(self.modality)
        if call is None and not hf_generate.decodes(kwargs, cache):  # in generate, others may ask beside the prompt
            state = model.__dict__[APPLIED]
            state.forget(None if ready is None else state.work)
        frame_ranges = hf_generate.take_frame_ranges(kwargs, self.argument)
        if not frame_ranges and call is not None:
            frame_ranges = call.frame_ranges
        past = hf_generate.pruned_prompt_of(cache, kwargs.get("input_ids"))
        pixels = {"video": "pixel_values_videos", "image": "pixel_values"}[self.modality]
        given = ready is not None or kwargs.get(pixels) is not None
        has_video = given and (self.argument is None or bool(frame_ranges) or past is not None)
        if past is None and not has_video:
            if not given:
                hf_generate.check_unknown(kwargs, cache, token)
            return None if self.argument is None else ((), kwargs)
        hf_generate.check_step(kwargs, has_video=has_video)
        # what is new in this step
        mask, cached = kwargs.get("attention_mask"), entries(cache)
        if past is None:  # all entries are tokens of the mask
            ids = kwargs["input_ids"]
            past = PrunedPrompt(cached, ids.new_ones(len(ids), cached) if mask is None else mask[:, :cached])
        past_length = past.original_length_of(cached)
        ids, mask = hf_generate.new_ids(kwargs, past_length, cached)
        if not has_video:
            hf_generate.check_text(ids, token)
        new = ids.new_ones(ids.shape) if mask is None else mask[:, past_length:].to(ids)
        encoded = None if ready is None else hf_generate.encoded_before(ready, ids, self.tiles)
        cache_mask = past.cache_mask(cached, mask)
        labels = kwargs.get("labels")
        step = Step(model, self, ids, new, past_length, past, cache_mask, encoded, has_video, frame_ranges, labels)
        if encoded is not None:
            hf_generate.check_encoded(encoded, frame_ranges, self.argument)
            step.rows()
        step.position_ids, of_prompt = self.position_ids(step, kwargs)
        # the call
        kwargs["input_ids"] = ids
        kwargs.pop("mm_token_type_ids", None)  # only for positions, which are there
        if kwargs.get("mm_encoder_outputs") is not None:
            kwargs["mm_encoder_outputs"] = dict(kwargs["mm_encoder_outputs"])  # the model writes into it
        if has_video:
            kwargs |= {"position_ids": step.position_ids, "attention_mask": None, "labels": None}
        else:
            hf_generate.check_gaps(model, cache_mask, new)
            full = step.set_positions(kwargs, new, step.position_ids)
            step.prompt = step.pruned_prompt(full, past.videos_end) if of_prompt else None
        _pending.set(step)
        return (), kwargs


def frame_ranges_of_call() -> Sequence[range]:
    """What the caller of the model, or of its generate, said of the videos."""
    step, call = _pending.get(), hf_generate.generate_call.get()
    return step.frame_ranges if step is not None else () if call is None else call.frame_ranges


def _shorten(language: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of the language model: of all it gets, what belongs to kept places, with the tokens there."""
    step = _pending.get()
    if step is None or not step.has_video:
        return None
    kwargs, family = dict(kwargs), step.family
    state, encoded = step.model.__dict__[APPLIED], step.encoded
    found = hf_generate.compress_videos(state, encoded, partial(family.kept, step.model, config=state.config))
    videos = [one for one in found if one is not None]
    # which columns stay, and the token at each; padding goes, and what belongs to other pieces of the prompt
    whole, at = hf_generate.whole_prompt(encoded, step.ids, step.past_length)
    index = [None if one is None else family.placeholder_index(one.video) for one in found]
    kept = list(zip(index, map(family.placeholder_count, encoded.videos), strict=True))
    columns, numbers = kept_columns(whole, family.placeholder(step.model), step.rows(), kept)
    real = torch.nn.functional.pad(step.mask.bool(), (at, whole.shape[1] - at - step.mask.shape[1]))
    here = [one[column] for one, column in zip(real, columns, strict=True)]
    order, counts = left_pad([column[piece] - at for column, piece in zip(columns, here, strict=True)], 0)
    hf_generate.check_gaps(step.model, step.cache_mask, counts)
    number, _ = left_pad([number[piece] for number, piece in zip(numbers, here, strict=True)], -1)
    # embeddings, mask and positions
    embeds = kwargs["inputs_embeds"]
    embeds = embeds.gather(1, order.unsqueeze(-1).expand(-1, -1, embeds.shape[-1]))
    kept = number >= 0
    if videos:
        newline = torch.cat([one.video.kind for one in videos]) == int(TokenKind.NEWLINE)
        kept &= ~newline[number.clamp_min(0)]  # the model's own, in its own precision
        embeds[kept] = torch.cat([one.video.tokens for one in videos]).to(embeds)[number[kept]]
    kwargs["inputs_embeds"] = embeds
    position_ids = None if step.position_ids is None else step.position_ids.gather(2, order.expand(3, -1, -1))
    full = step.set_positions(kwargs, step.mask.gather(1, order) * counts, position_ids)
    if kwargs.get("visual_pos_masks") is not None:
        merged = [torch.cat(rows) for rows in zip(*(one.levels for one in videos), strict=True)]
        given = (kwargs["visual_pos_masks"], kwargs["deepstack_visual_embeds"])
        left = shortened_levels(*given, merged, order, counts, number)
        kwargs["visual_pos_masks"], kwargs["deepstack_visual_embeds"] = left
    places = (number >= 0).any(0).nonzero()
    videos_end = step.cache_mask.shape[1] + int(places[-1]) + 1 if len(places) else step.past.videos_end
    step.prompt = step.pruned_prompt(full, videos_end)
    if step.labels is not None:
        step.labels = shortened_labels(step.labels, order, counts)
    return (), kwargs


def _after(model: Any, args: tuple, kwargs: dict, output: Any) -> Any:
    """Forward hook: the cache learns how its prompt was shortened; labels that were left give the loss."""
    step = _pending.get()
    _pending.set(None)
    if step is None or output is None:  # None when the call failed
        return None
    parts = output if isinstance(output, tuple) else tuple(output.values())
    cache = next((part for part in parts if hasattr(part, "get_seq_length")), None)
    if step.prompt is not None and cache is not None:
        setattr(cache, hf_generate.PROMPT, step.prompt)
    if step.labels is None or not step.has_video:
        return None
    loss = hf_generate.loss_of(model, kwargs, parts, step.labels)
    return (loss, *output) if isinstance(output, tuple) else type(output)(**{**output, "loss": loss})
