"""transformers' Qwen-VL models: their videos are shortened on the way into the language model.

The model itself encodes, puts features at their placeholders and makes positions for the whole prompt. A hook before
its language model then compresses the videos, and of all that belongs to a place (embedding, the three position planes,
mask, DeepStack) leaves that of kept places: a kept token stays at its own placeholder with its own position. The
key-value cache remembers how long the prompt was and which position follows it, so that later steps are put right
before the model sees them.
"""

import functools
import inspect
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from ..compress import compress
from ..config import AOTConfig
from ..errors import AOTError
from ..registry import get_method
from ..result import CompressedVideo
from . import steps
from .capture import capturing
from .kv_cache import take_cache
from .prompt import Shortened, left_filled, own_places, positions, shortened_labels, videos_of_rows
from .qwen_tower import TowerReader, watch_blocks
from .steps import STATE, Encoded, EncodedVideo, detach, entries, last, settings

__all__ = ["attach", "detach", "fits", "last", "settings"]

_NAMES = (
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
)
_pending: ContextVar["Step | None"] = ContextVar("aot_qwen_pending", default=None)


@dataclass
class Step:
    """A call of the model on its way through it.

    ids, mask: (B, n) of the places behind the `covered` ones of the cache (in the caller's count), and which count.
    entered: (B, cached) mask of the cache's entries. places: (3, B, n) positions. encoded: the call's videos, once
    there are any. shortens: it brings videos. prompt, labels: what the cache is to remember, and the labels left.
    """

    model: Any
    ids: torch.Tensor
    mask: torch.Tensor
    covered: int
    entered: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor | None = None
    encoded: Encoded | None = None
    shortens: bool = False
    prompt: Shortened | None = None

    @property
    def following(self) -> torch.Tensor:
        """(B, 1) position of the token behind each row's last one."""
        ends = (self.mask * torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)).argmax(1, keepdim=True)
        return self.places.amax(0).gather(1, ends) + 1

    def remembered(self, full: torch.Tensor) -> Shortened:
        """What the cache knows afterwards; full: (B, L') mask of all that entered."""
        return Shortened(self.covered + self.ids.shape[1], full, self.following)


def fits(model: nn.Module) -> bool:
    """Is this one of the classes of transformers, or one made from it?"""
    return steps.class_named(model, _NAMES) is not None


def attach(model: Any, config: AOTConfig) -> None:
    """Puts the hooks on this instance, or changes the settings of those that are there."""
    steps.check_method(config)
    TowerReader(model.model.visual, get_method(config.method).needs)
    if STATE in model.__dict__:
        model.__dict__[STATE].config = config
        return
    base = steps.class_named(model, _NAMES)
    state = steps.begin(model, config, base, "get_video_features", _encoding)
    if not hasattr(base, "_expand_multimodal_outputs") and base.__name__.startswith("Qwen3VL"):
        model._expand_inputs_for_generation = MethodType(_unexpanded(type(model)._expand_inputs_for_generation), model)
        state.replaced.append((model, "_expand_inputs_for_generation"))
    state.handles += watch_blocks(model.model.visual)
    state.handles.append(model.register_forward_pre_hook(_before, with_kwargs=True))
    state.handles.append(model.model.language_model.register_forward_pre_hook(_shorten, with_kwargs=True))
    state.handles.append(model.register_forward_hook(_after, with_kwargs=True, always_call=True))


def _unexpanded(original: Any) -> Any:
    """The step of generate that repeats prompts, where it takes every frame for a video (Qwen3-VL, transformers 4)."""

    @functools.wraps(original)
    def _expand_inputs_for_generation(self, expand_size: int = 1, *args: Any, **kwargs: Any) -> Any:
        if expand_size > 1 and kwargs.get("pixel_values_videos") is not None:
            raise AOTError(
                "This release of transformers cannot repeat Qwen3-VL's prompts with a video; leave num_beams and "
                "num_return_sequences at 1, or install transformers 5."
            )
        return original(self, expand_size, *args, **kwargs)

    return _expand_inputs_for_generation


def _encoding(original: Any) -> Any:
    """get_video_features that leaves with its result, or with the step, what compression needs."""

    @functools.wraps(original)
    def get_video_features(self, *args: Any, **kwargs: Any) -> Any:
        thw = inspect.signature(original).bind(self, *args, **kwargs).arguments["video_grid_thw"]
        reader = TowerReader(self.visual, get_method(self.__dict__[STATE].config.method).needs)
        with capturing(reader.names) as captured:
            result = original(self, *args, **kwargs)
        outputs = reader.read(captured, thw)
        features = getattr(result, "pooler_output", result)
        features = features[0] if isinstance(features[0], tuple) else features  # transformers 4 with DeepStack
        merge = self.visual.spatial_merge_size
        encoded = [
            EncodedVideo(part.unflatten(0, (t, -1)), output, (h // merge, w // merge))
            for part, output, (t, h, w) in zip(features, outputs, thw.tolist(), strict=True)
        ]
        if not isinstance(result, tuple):
            setattr(result, steps.ENCODED, encoded)
        if (call := steps.generated.get()) is not None:
            call.encoded = encoded
        if (step := _pending.get()) is not None:
            step.encoded = Encoded(encoded)
        return result

    return get_video_features


def _before(model: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of the model: the places that its cache does not cover; None leaves the call as it is."""
    _pending.set(None)
    kwargs = steps.call_arguments(model, args, kwargs)
    cache, token = take_cache(dict(kwargs)), model.config.video_token_id
    ready = (kwargs.get("mm_encoder_outputs") or {}).get("video")  # transformers 5 encodes before it generates
    brings = ready is not None or kwargs.get("pixel_values_videos") is not None
    known = getattr(cache, steps.PROMPT, None)
    if known is None and not brings:
        steps.check_unknown(kwargs, cache, token)
        return None
    steps.check_step(kwargs, shortens=brings)
    # what is new in this step
    mask, cached = kwargs.get("attention_mask"), entries(cache)
    known = steps.start_of(known, kwargs["input_ids"], mask, cached)
    covered = known.covered(cached)
    ids, mask = steps.new_part(kwargs, covered, cached)
    if not brings:
        steps.check_text(ids, token)
    entered = known.extended(cached, mask)
    new = ids.new_ones(ids.shape) if mask is None else mask[:, covered:].to(ids)
    encoded = None if ready is None else steps.taken_before(ready, ids)
    places, of_prompt = _places(model, kwargs, ids, new, known, entered, encoded)
    step = Step(model, ids, new, covered, entered, places, kwargs.get("labels"), encoded, brings)
    # the call
    kwargs["input_ids"] = ids
    kwargs.pop("mm_token_type_ids", None)  # only for positions, which are there
    if kwargs.get("mm_encoder_outputs") is not None:
        kwargs["mm_encoder_outputs"] = dict(kwargs["mm_encoder_outputs"])  # the model writes into it
    if brings:
        kwargs |= {"position_ids": places, "attention_mask": None, "labels": None}
    else:
        full = torch.cat([entered.to(new), new], dim=1)
        kwargs |= {"position_ids": _with_count(places, full), "attention_mask": full}
        _place_in_cache(kwargs, cached, full)
        step.prompt = step.remembered(full) if of_prompt else None
    _pending.set(step)
    return (), kwargs


def _places(
    model: Any,
    kwargs: dict,
    ids: torch.Tensor,
    mask: torch.Tensor,
    known: Shortened,
    entered: torch.Tensor,
    encoded: Encoded | None,
) -> tuple[torch.Tensor, bool]:
    """(3, B, n) positions of new ids (B, n), and whether they are a prompt's, which the cache is to remember."""
    given, call, cached = kwargs.get("position_ids"), steps.generated.get(), entered.shape[1]
    reads_prompt = call is not None and call.start == 0 and known.covered(cached) < call.ids.shape[1]
    first = known.following is None or reads_prompt
    if first and given is not None:
        given = given if given.dim() == 3 else given.unsqueeze(0)
        return given[-3:, :, -ids.shape[1] :].expand(3, len(ids), -1), True
    if first and cached:
        raise AOTError("A video came behind a prompt without one; give the whole conversation, without a cache.")
    seen = (model.config.image_token_id, model.config.video_token_id)
    vision = ids.shape[1] > 1 and any(bool((ids == token).any()) for token in seen)
    if vision or first:
        places = _rope_index(model, kwargs, ids, mask, encoded)
    else:
        places = positions(mask, mask.shape[1]).expand(3, -1, -1)
    if not first:  # the prompt's end, and what entered the cache since, or was cut from it
        places = places + known.following + entered.sum(1, keepdim=True) - known.mask.sum(1, keepdim=True)
    return places, vision or first


def _rope_index(
    model: Any, kwargs: dict, ids: torch.Tensor, mask: torch.Tensor, encoded: Encoded | None
) -> torch.Tensor:
    """(3, B, n) the model's own positions of ids (B, n) that begin at 0."""
    config, inner = model.config, model.model
    grids = {name: kwargs.get(name) for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")}
    if grids["image_grid_thw"] is None and bool((ids == config.image_token_id).any()):
        raise AOTError(
            "An image in a later turn came without image_grid_thw; give the whole conversation, without a cache."
        )
    if encoded is not None and grids["video_grid_thw"] is None:  # generate has taken it out
        merge = inner.visual.spatial_merge_size
        rows = videos_of_rows(ids, config.video_token_id, [v.size for v in encoded.videos], repeats=encoded.repeats)
        videos = [encoded.videos[v] for row in rows for v in row]
        thw = [[len(v.features), v.grid[0] * merge, v.grid[1] * merge] for v in videos]
        grids["video_grid_thw"] = torch.tensor(thw, device=ids.device)
    types = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
    known = inspect.signature(inner.get_rope_index).parameters
    call = {**grids, "attention_mask": mask, "mm_token_type_ids": types}
    places, inner.rope_deltas = inner.get_rope_index(ids, **{name: v for name, v in call.items() if name in known})
    return places


def _with_count(places: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(4, B, n) positions (3, B, n) behind a row without gaps, by which masks are made; mask: (B, L')."""
    return torch.cat([positions(mask, places.shape[2]).unsqueeze(0).to(places), places])


def _place_in_cache(kwargs: dict, cached: int, mask: torch.Tensor) -> None:
    if kwargs.get("cache_position") is not None:  # transformers 4
        kwargs["cache_position"] = torch.arange(cached, mask.shape[1], device=mask.device)


def _shorten(language: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of the language model: of all it gets, what belongs to kept places, with the tokens there."""
    step = _pending.get()
    if step is None or not step.shortens:
        return None
    kwargs, token = dict(kwargs), step.model.config.video_token_id
    videos = steps.compressed_videos(step.model.__dict__[STATE], step.encoded, partial(_compress, step.model))
    # which columns stay, and the token at each
    whole, at = steps.whole_prompt(step.encoded, step.ids, step.covered)
    sizes = [video.size for video in step.encoded.videos]
    rows = videos_of_rows(whole, token, sizes, repeats=step.encoded.repeats)
    columns, numbers = own_places(whole, token, rows, list(zip(map(_placeholders, videos), sizes, strict=True)))
    # padding goes too, and what belongs to other pieces
    real = torch.nn.functional.pad(step.mask.bool(), (at, whole.shape[1] - at - step.mask.shape[1]))
    here = [one[column] for one, column in zip(real, columns, strict=True)]
    order, counts = left_filled([column[piece] - at for column, piece in zip(columns, here, strict=True)], 0)
    number, _ = left_filled([number[piece] for number, piece in zip(numbers, here, strict=True)], -1)
    # embeddings
    embeds = kwargs["inputs_embeds"]
    embeds = embeds.gather(1, order.unsqueeze(-1).expand(-1, -1, embeds.shape[-1]))
    kept = number >= 0
    embeds[kept] = torch.cat([video.tokens for video in videos]).to(embeds)[number[kept]]
    # mask and positions
    cached = step.entered.shape[1]
    full = torch.cat([step.entered.to(step.mask), step.mask.gather(1, order) * counts], dim=1)
    places = step.places.gather(2, order.expand(3, -1, -1))
    kwargs |= {"inputs_embeds": embeds, "attention_mask": full, "position_ids": _with_count(places, full)}
    _place_in_cache(kwargs, cached, full)
    # DeepStack
    visual = kwargs.get("visual_pos_masks")
    if visual is not None:
        row = (visual.flatten().cumsum(0) - 1).view_as(visual).gather(1, order)
        kwargs["visual_pos_masks"] = visual.gather(1, order) & counts
        row = row[kwargs["visual_pos_masks"]]
        kwargs["deepstack_visual_embeds"] = [level[row] for level in kwargs["deepstack_visual_embeds"]]
    step.prompt = step.remembered(full)
    if step.labels is not None:
        step.labels = shortened_labels(step.labels, order, counts)
    return (), kwargs


def _placeholders(video: CompressedVideo) -> torch.Tensor:
    """(S,) which of a video's placeholders each token stands at."""
    height, width = video.grid
    return (video.frame * height + video.position[:, 0]) * width + video.position[:, 1]


def _compress(model: Any, video: EncodedVideo) -> CompressedVideo:
    extras = {name: value for name, value in video.outputs.items() if name not in ("shallow", "deep")}
    return compress(
        video.features,
        video.outputs.get("shallow"),
        video.outputs.get("deep"),
        model.__dict__[STATE].config,
        pool=None,
        newline_position="no_token",
        grid=video.grid,
        extras=extras,
    )


def _after(model: Any, args: tuple, kwargs: dict, output: Any) -> Any:
    """Forward hook: the cache learns how its prompt was shortened; labels that were left give the loss."""
    step = _pending.get()
    _pending.set(None)
    if step is None or output is None:  # None when the call failed
        return None
    if step.prompt is not None:
        steps.remember(output, step.prompt)
    if step.labels is None or not step.shortens:
        return None
    logits = output[0] if isinstance(output, tuple) else output.logits
    items = {name: value for name, value in kwargs.items() if name == "num_items_in_batch"}
    vocabulary = model.config.get_text_config().vocab_size
    loss = model.loss_function(logits=logits, labels=step.labels, vocab_size=vocabulary, **items)
    return (loss, *output) if isinstance(output, tuple) else type(output)(**{**output, "loss": loss})
