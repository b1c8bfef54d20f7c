"""transformers' LlavaOnevisionForConditionalGeneration: its videos are shortened on their way in.

The processor writes a fixed number of placeholders for a video. A hook before the model's forward pass
compresses the videos, drops the placeholders that are not needed, and passes embeddings, mask and positions
of the shorter prompt on; the key-value cache remembers how long the prompt was, so that the mask and the
positions that `generate` counts on by itself are put right at every later step. A prompt that `generate` reads in
pieces (`prefill_chunk_size`) is known to the hook as a whole, since `generate` is wrapped.
"""

import functools
import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import nn

from ..compress import compress
from ..config import AOTConfig
from ..errors import AOTError
from ..registry import get_method
from ..types import CompressedVideo
from .kv_cache import NAMES, cache_name, take_cache
from .prompt import PrunedPrompt, places_to_keep, positions, shorten, videos_of_rows
from .vision_outputs import Reader, attention_layers, capturing, watch, watch_attention

_STATE = "_aot_applied"  # on the model, a State
_ENCODED = "_aot_encoded"  # on what get_video_features returned, a list of EncodedVideo
_PROMPT = "_aot_prompt"  # on a cache, a PrunedPrompt
_PROJECTED = "projected"
_pending: ContextVar[PrunedPrompt | None] = ContextVar("aot_pending", default=None)
_generated: ContextVar["Generated | None"] = ContextVar("aot_generated", default=None)


@dataclass
class State:
    """What is in force on one model: settings, hooks, and what became of the last videos."""

    config: AOTConfig
    handles: list = field(default_factory=list)
    last: list[CompressedVideo] = field(default_factory=list)


@dataclass(frozen=True)
class EncodedVideo:
    """features: (F, N, D) projected, before pooling; outputs: further tower outputs by name, (F, N, ...)."""

    features: torch.Tensor
    outputs: dict[str, torch.Tensor]


@dataclass
class Generated:
    """The prompts of a call of `generate`, as far as no cache holds them yet, and their videos once they are encoded.

    ids: (B, n). start: places behind the prompts that the cache held before.
    """

    ids: torch.Tensor
    start: int
    encoded: list[EncodedVideo] | None = None
    videos: list[CompressedVideo] | None = None


@dataclass(frozen=True)
class Encoded:
    """Videos of a call of the model.

    repeats: how often `generate` repeats each for its beams. whole: the prompts when this call reads a piece of them.
    """

    videos: list[EncodedVideo]
    repeats: int = 1
    whole: Generated | None = None


def fits(model: nn.Module) -> bool:
    """Is this the class of transformers, or one made from it?"""
    return _base(model) is not None


def _base(model: nn.Module) -> type | None:
    names = (kind for kind in type(model).__mro__ if kind.__name__ == "LlavaOnevisionForConditionalGeneration")
    return next(names, None)


def settings(model: nn.Module) -> AOTConfig | None:
    """The applied settings, None when there are none."""
    state = model.__dict__.get(_STATE)
    return None if state is None else state.config


def attach(model: Any, config: AOTConfig) -> None:
    """Puts the hooks on this instance, or changes the settings of those that are there."""
    if get_method(config.method).in_llm:
        raise AOTError(
            f"Method {config.method!r} drops tokens inside the language model, which transformers' own model does "
            "not offer; choose one that acts before it, or use LlavaQwenForCausalLM."
        )
    cache_name(_base(model).forward)  # raises for a release that calls it otherwise
    inner = model.model
    Reader(inner.vision_tower, get_method(config.method).requires, len(attention_layers(inner.vision_tower)))
    if _STATE in model.__dict__:
        model.__dict__[_STATE].config = config
        return
    inner.get_video_features = MethodType(_encoding(type(inner).get_video_features), inner)
    model.generate = MethodType(_generating(type(model).generate), model)
    handles = watch_attention(inner.vision_tower)
    handles.append(watch(inner.multi_modal_projector, _PROJECTED))
    handles.append(model.register_forward_pre_hook(_before, with_kwargs=True))
    handles.append(model.register_forward_hook(_after))
    inner.__dict__[_STATE] = model.__dict__[_STATE] = State(config, handles)


def detach(model: Any) -> None:
    """Takes the hooks off this instance."""
    state = model.__dict__.pop(_STATE, None)
    if state is None:
        return
    for handle in state.handles:
        handle.remove()
    del model.model.__dict__[_STATE], model.model.get_video_features, model.generate


def last(model: nn.Module) -> list[CompressedVideo]:
    """What became of each video of the last call that brought one."""
    state = model.__dict__.get(_STATE)
    return [] if state is None else state.last


def _encoding(original: Any) -> Any:
    """get_video_features that leaves on its result what compression needs; the result itself is unchanged."""

    @functools.wraps(original)
    def get_video_features(self, *args: Any, **kwargs: Any) -> Any:
        result, encoded = _encode(original, self, *args, **kwargs)
        if not isinstance(result, tuple):
            setattr(result, _ENCODED, encoded)
        if (generated := _generated.get()) is not None:
            generated.encoded = encoded
        return result

    return get_video_features


def _generating(original: Any) -> Any:
    """generate that lets the hook of the model see the whole prompt, which it may get in pieces."""

    @functools.wraps(original)
    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids") if inputs is None else inputs
        token = _generated.set(None if ids is None else _uncovered(self, ids, args, kwargs))
        try:
            return original(self, inputs, *args, **kwargs)
        finally:
            _generated.reset(token)

    return generate


def _uncovered(model: Any, ids: torch.Tensor, args: tuple, kwargs: dict) -> Generated:
    """What a call of `generate` adds to its cache; AOTError when it reads pieces that the hooks do not see."""
    settings = next((value for value in (*args, kwargs.get("generation_config")) if value is not None), None)
    settings = model.generation_config if settings is None else settings
    in_pieces = kwargs.get("prefill_chunk_size", getattr(settings, "prefill_chunk_size", None))
    if in_pieces and "mm_encoder_outputs" not in inspect.signature(_base(model).forward).parameters:
        raise AOTError("This release of transformers cannot read a video in pieces; leave prefill_chunk_size out.")
    cache, mask = take_cache({name: kwargs.get(name) for name in NAMES}), kwargs.get("attention_mask")
    known = getattr(cache, _PROMPT, None)
    if in_pieces and known is not None:
        raise AOTError("Behind a shortened prompt generate does not find the pieces; leave prefill_chunk_size out.")
    start = _entries(cache) if known is None else known.original_length_of(_entries(cache))
    before = 0 if mask is None else mask.shape[1] - ids.shape[1]  # places that only the mask speaks of
    return Generated(ids[:, max(0, start - before) :], start)


def _encode(original: Any, inner: Any, *args: Any, **kwargs: Any) -> tuple[Any, list[EncodedVideo]]:
    """What the model's own get_video_features returns, and every video with what its method needs."""
    call = inspect.signature(original).bind(inner, *args, **kwargs).arguments
    videos = next(call[name] for name in ("pixel_values_videos", "pixel_values") if name in call)
    reader, skip = _reader(inner, call)
    with capturing([*reader.names, _PROJECTED]) as captured:
        result = original(inner, *args, **kwargs)
    outputs = reader.read(captured, skip=skip)
    frames = [len(video) for video in videos]
    each = {name: value.split(frames) for name, value in outputs.items()}
    features = captured[_PROJECTED].split(frames)
    return result, [EncodedVideo(part, {k: v[i] for k, v in each.items()}) for i, part in enumerate(features)]


def _reader(inner: Any, call: dict) -> tuple[Reader, int]:
    """What to read from the tower under the settings in force, and how many class tokens to leave out."""
    layer, strategy = (
        getattr(inner.config, name) if call.get(name) is None else call[name]
        for name in ("vision_feature_layer", "vision_feature_select_strategy")
    )
    total = len(attention_layers(inner.vision_tower))
    used = max(index if index >= 0 else total + 1 + index for index in ([layer] if isinstance(layer, int) else layer))
    requires = get_method(inner.__dict__[_STATE].config.method).requires
    return Reader(inner.vision_tower, requires, used), int(strategy == "default")


def _before(model: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook: the same call with the shorter prompt; None leaves the call as it is."""
    _pending.set(None)
    if args:
        names = list(inspect.signature(type(model).forward).parameters)[1:]
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
    # the videos of this call, and what the cache remembers of earlier ones
    cache = take_cache(dict(kwargs))
    encoded = _take_videos(model, kwargs := dict(kwargs))
    pruned = getattr(cache, _PROMPT, None)
    if encoded is None and pruned is None:
        _check_unknown(model, kwargs, cache)
        return None
    mask = kwargs.get("attention_mask")
    if mask is not None and not (isinstance(mask, torch.Tensor) and mask.dim() == 2):
        raise AOTError("aot.apply works with the growing cache that generate uses by itself; leave static caches out.")
    if kwargs.get("input_ids") is None:
        raise AOTError("aot.apply finds videos in a prompt by its input_ids; give these, not inputs_embeds.")
    # how many places of the original prompt are behind this step
    cached = _entries(cache)
    if pruned is None:
        before = kwargs["input_ids"].new_ones(len(kwargs["input_ids"]), cached) if mask is None else mask[:, :cached]
        pruned = PrunedPrompt(cached, before)
    behind = pruned.original_length_of(cached)
    # new ids and their mask
    ids, mask = _new_part(kwargs, behind, cached)
    if encoded is None:
        _check_text(model, ids)
    cached_mask = pruned.entered_mask(cached, mask)
    new_mask = ids.new_ones(ids.shape) if mask is None else mask[:, behind:]
    original_length = behind + ids.shape[1]
    # compress the videos and splice their tokens in
    if encoded is not None:
        ids, new_mask = _compressed(model, kwargs, ids, new_mask, encoded, behind)
    elif kwargs.get("inputs_embeds") is None:
        kwargs["input_ids"] = ids
    # mask and positions of the shorter prompt
    full_mask = torch.cat([cached_mask.to(new_mask), new_mask], dim=1)
    kwargs["attention_mask"], kwargs["position_ids"] = full_mask, positions(full_mask, new_mask.shape[1])
    if kwargs.get("cache_position") is not None:  # transformers 4
        kwargs["cache_position"] = torch.arange(cached, full_mask.shape[1], device=full_mask.device)
    if encoded is not None:
        _pending.set(PrunedPrompt(original_length, full_mask))
    return (), kwargs


def _check_unknown(model: Any, kwargs: dict, cache: Any) -> None:
    """AOTError for a step that goes on from a prompt with a video of which its cache says nothing."""
    ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
    if ids is None or not (mask is None or isinstance(mask, torch.Tensor) and mask.dim() == 2):
        return
    if mask is not None and mask.shape[1] > ids.shape[1] and mask.shape[1] > _entries(cache) + ids.shape[1]:
        raise AOTError(
            "This step goes on from a prompt that its cache does not know; give the very cache that came with the "
            "answer about the video, or the whole prompt with its video."
        )
    generated = _generated.get()
    if generated is not None and generated.encoded is not None or _entries(cache) > 0:
        _check_text(model, ids)


def _check_text(model: Any, ids: torch.Tensor) -> None:
    """AOTError for new ids (B, n) with placeholders of a video that did not come with them."""
    # a single token is no prompt, and looking at it would wait for the device at every step
    if ids.shape[1] > 1 and bool((ids == model.config.video_token_id).any()):
        raise AOTError(
            "Placeholders of a video came without it, as this release of transformers loses it in a later turn or in "
            "pieces; give the whole conversation with its videos, without a cache and without prefill_chunk_size."
        )


def _entries(cache: Any) -> int:
    return 0 if cache is None else int(cache.get_seq_length())


def _after(model: nn.Module, args: tuple, output: Any) -> None:
    """Forward hook: the cache learns how its prompt was shortened."""
    prompt = _pending.get()
    if prompt is None:
        return
    _pending.set(None)
    parts = output if isinstance(output, tuple) else output.values()
    cache = next((part for part in parts if hasattr(part, "get_seq_length")), None)
    if cache is not None:
        setattr(cache, _PROMPT, prompt)


def _take_videos(model: Any, kwargs: dict) -> Encoded | None:
    """The encoded videos of a call, which are taken out of kwargs; None when it brings none."""
    pixels = kwargs.get("pixel_values_videos")
    if pixels is not None:
        names = ("vision_feature_layer", "vision_feature_select_strategy")
        chosen = {name: getattr(model.config, name) if kwargs.get(name) is None else kwargs[name] for name in names}
        kwargs["pixel_values_videos"] = None
        return Encoded(_encode(type(model.model).get_video_features, model.model, pixels, **chosen)[1])
    # transformers 5 encodes before it generates
    ready = kwargs.get("mm_encoder_outputs") or {}
    if ready.get("video") is None:
        return None
    kwargs["mm_encoder_outputs"] = {name: value for name, value in ready.items() if name != "video"} or None
    videos = getattr(ready["video"], _ENCODED, None)
    if videos is not None:
        return Encoded(videos, len(ready["video"].pooler_output) // len(videos))
    generated = _generated.get()
    if generated is None or generated.encoded is None:
        raise AOTError("The video was encoded before aot.apply; encode it again, after it.")
    return Encoded(generated.encoded, len(kwargs["input_ids"]) // len(generated.ids), generated)


def _new_part(kwargs: dict, covered: int, cached: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Ids (B, n) that the cache does not cover, and the caller's mask (B, covered + n) or None."""
    ids, mask, places = kwargs["input_ids"], kwargs.get("attention_mask"), kwargs.get("position_ids")
    given = ids.shape[1]
    total = covered + given
    if mask is not None:
        total = mask.shape[1]
    elif given > 1 and places is not None and cached:
        total = int(places.max()) + 1  # generate drops a mask without padding
    # generate takes the cache for as long as it is, and cuts the whole prompt there
    if given not in (total - covered, total - cached, total) or total <= covered:
        raise AOTError(
            f"A step of {given} tokens does not go on from the {covered} behind it; aot.apply does not work with "
            "a cache that was cut, as the assisted generation of transformers 4 does."
        )
    return ids[:, given - (total - covered) :], mask


def _compressed(
    model: Any, kwargs: dict, ids: torch.Tensor, mask: torch.Tensor, encoded: Encoded, covered: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Puts the embeddings of the shortened prompt, and its labels, in kwargs; returns its ids and mask.

    ids, mask: (B, n) of the places from `covered` on, which may be a piece of the prompts.
    """
    state, inner, token = model.__dict__[_STATE], model.model, model.config.video_token_id
    if isinstance(kwargs.get("logits_to_keep"), torch.Tensor):
        raise AOTError("logits_to_keep names places of the unshortened prompt; give a number of last places.")
    # compress; a prompt in pieces does it at the first one
    whole, at, generated = ids, 0, encoded.whole
    if generated is None or generated.videos is None:
        state.last = [_compress(model, video) for video in encoded.videos]
    if generated is not None:
        generated.videos = generated.videos or state.last
        whole, at = generated.ids.repeat_interleave(encoded.repeats, dim=0), covered - generated.start
        if not torch.equal(whole[:, at : at + ids.shape[1]], ids):
            raise AOTError("The prompt that came in pieces is not the one that generate was called with.")
    videos = state.last if generated is None else generated.videos
    # which places stay
    size = encoded.videos[0].features.shape[0] * videos[0].grid[0] * videos[0].grid[1] + 1
    rows = videos_of_rows(whole, token, size, len(videos), repeats=encoded.repeats)
    keep = places_to_keep(whole, token, size, [[len(videos[v].tokens) for v in row] for row in rows])
    order, counts = shorten(keep[:, at : at + ids.shape[1]])
    ids, mask = ids.gather(1, order), mask.gather(1, order) * counts.to(mask)
    # the tokens of this piece behind those of the pieces before
    slots = (ids == token) & counts
    first = (keep & (whole == token))[:, :at].sum(1).tolist()
    tokens = [
        torch.cat([videos[v].tokens for v in row])[before : before + count]
        for row, before, count in zip(rows, first, slots.sum(1).tolist(), strict=True)
        if row
    ]
    embeds = inner.get_input_embeddings()(ids)
    kwargs["inputs_embeds"] = embeds.masked_scatter(slots.unsqueeze(-1), torch.cat(tokens).to(embeds))
    kwargs["input_ids"] = None
    if kwargs.get("labels") is not None:
        kwargs["labels"] = kwargs["labels"].gather(1, order).masked_fill(~counts, -100)
    return ids, mask


def _compress(model: Any, video: EncodedVideo) -> CompressedVideo:
    extras = {name: value for name, value in video.outputs.items() if name not in ("shallow", "deep")}
    vision = model.model.config.vision_config
    side = vision.image_size // vision.patch_size
    return compress(
        video.features,
        video.outputs.get("shallow"),
        video.outputs.get("deep"),
        model.__dict__[_STATE].config,
        pool="bilinear",
        newline=model.model.image_newline.detach(),
        newline_position="one_token",
        grid=(side, side),
        extras=extras,
    )
