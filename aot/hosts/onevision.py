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
from functools import partial
from typing import Any

import torch
from torch import nn

from ..compress import compress
from ..config import AOTConfig
from ..registry import get_method
from ..result import CompressedVideo
from . import steps
from .capture import Reader, attention_layers, capturing, watch, watch_attention
from .kv_cache import take_cache
from .prompt import Shortened, places_to_keep, positions, shorten, shortened_labels, videos_of_rows
from .steps import STATE, Encoded, EncodedVideo, detach, entries, last, settings

__all__ = ["attach", "detach", "fits", "last", "settings"]

_NAMES = ("LlavaOnevisionForConditionalGeneration",)
_PROJECTED = "projected"
_pending: ContextVar[Shortened | None] = ContextVar("aot_pending", default=None)


def fits(model: nn.Module) -> bool:
    """Is this the class of transformers, or one made from it?"""
    return steps.class_named(model, _NAMES) is not None


def attach(model: Any, config: AOTConfig) -> None:
    """Puts the hooks on this instance, or changes the settings of those that are there."""
    steps.check_method(config)
    inner = model.model
    Reader(inner.vision_tower, get_method(config.method).needs, len(attention_layers(inner.vision_tower)))
    if STATE in model.__dict__:
        model.__dict__[STATE].config = config
        return
    state = steps.begin(model, config, steps.class_named(model, _NAMES), "get_video_features", _encoding)
    state.handles += watch_attention(inner.vision_tower)
    state.handles.append(watch(inner.multi_modal_projector, _PROJECTED))
    state.handles.append(model.register_forward_pre_hook(_before, with_kwargs=True))
    state.handles.append(model.register_forward_hook(_after))


def _encoding(original: Any) -> Any:
    """get_video_features that leaves on its result what compression needs; the result itself is unchanged."""

    @functools.wraps(original)
    def get_video_features(self, *args: Any, **kwargs: Any) -> Any:
        result, encoded = _encode(original, self, *args, **kwargs)
        if not isinstance(result, tuple):
            setattr(result, steps.ENCODED, encoded)
        if (generated := steps.generated.get()) is not None:
            generated.encoded = encoded
        return result

    return get_video_features


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
    side = inner.config.vision_config.image_size // inner.config.vision_config.patch_size
    grid = (side, side)
    return result, [EncodedVideo(part, {k: v[i] for k, v in each.items()}, grid) for i, part in enumerate(features)]


def _reader(inner: Any, call: dict) -> tuple[Reader, int]:
    """What to read from the tower under the settings in force, and how many class tokens to leave out."""
    layer, strategy = (
        getattr(inner.config, name) if call.get(name) is None else call[name]
        for name in ("vision_feature_layer", "vision_feature_select_strategy")
    )
    total = len(attention_layers(inner.vision_tower))
    used = max(index if index >= 0 else total + 1 + index for index in ([layer] if isinstance(layer, int) else layer))
    needs = get_method(inner.__dict__[STATE].config.method).needs
    return Reader(inner.vision_tower, needs, used), int(strategy == "default")


def _before(model: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook: the same call with the shorter prompt; None leaves the call as it is."""
    _pending.set(None)
    kwargs = steps.call_arguments(model, args, kwargs)
    cache, token = take_cache(dict(kwargs)), model.config.video_token_id
    encoded = _take_videos(model, kwargs)
    known = getattr(cache, steps.PROMPT, None)
    if encoded is None and known is None:
        steps.check_unknown(kwargs, cache, token)
        return None
    steps.check_step(kwargs, shortens=encoded is not None)
    mask, cached = kwargs.get("attention_mask"), entries(cache)
    known = steps.start_of(known, kwargs["input_ids"], mask, cached)
    ids, mask = steps.new_part(kwargs, known.covered(cached), cached)
    if encoded is None:
        steps.check_text(ids, token)
    entered = known.extended(cached, mask)
    new = ids.new_ones(ids.shape) if mask is None else mask[:, known.covered(cached) :]
    total = known.covered(cached) + ids.shape[1]
    if encoded is not None:
        ids, new = _compressed(model, kwargs, ids, new, encoded, known.covered(cached))
    full = torch.cat([entered.to(new), new], dim=1)
    kwargs["attention_mask"], kwargs["position_ids"] = full, positions(full, new.shape[1])
    if kwargs.get("inputs_embeds") is None:
        kwargs["input_ids"] = ids
    if kwargs.get("cache_position") is not None:  # transformers 4
        kwargs["cache_position"] = torch.arange(cached, full.shape[1], device=full.device)
    if encoded is not None:
        _pending.set(Shortened(total, full))
    return (), kwargs


def _after(model: nn.Module, args: tuple, output: Any) -> None:
    """Forward hook: the cache learns how its prompt was shortened."""
    prompt = _pending.get()
    _pending.set(None)
    if prompt is not None:
        steps.remember(output, prompt)


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
    return steps.taken_before(ready["video"], kwargs["input_ids"])


def _compressed(
    model: Any, kwargs: dict, ids: torch.Tensor, mask: torch.Tensor, encoded: Encoded, covered: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Puts the embeddings of the shortened prompt, and its labels, in kwargs; returns its ids and mask.

    ids, mask: (B, n) of the places from `covered` on, which may be a piece of the prompts.
    """
    inner, token = model.model, model.config.video_token_id
    # compress; a prompt in pieces does it at the first one
    videos = steps.compressed_videos(model.__dict__[STATE], encoded, partial(_compress, model))
    whole, at = steps.whole_prompt(encoded, ids, covered)
    # which places stay
    size = encoded.videos[0].features.shape[0] * videos[0].grid[0] * videos[0].grid[1] + 1
    rows = videos_of_rows(whole, token, [size] * len(videos), repeats=encoded.repeats)
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
        kwargs["labels"] = shortened_labels(kwargs["labels"], order, counts)
    return ids, mask


def _compress(model: Any, video: EncodedVideo) -> CompressedVideo:
    extras = {name: value for name, value in video.outputs.items() if name not in ("shallow", "deep")}
    return compress(
        video.features,
        video.outputs.get("shallow"),
        video.outputs.get("deep"),
        model.__dict__[STATE].config,
        pool="bilinear",
        newline=model.model.image_newline.detach(),
        newline_position="one_token",
        grid=video.grid,
        extras=extras,
    )
