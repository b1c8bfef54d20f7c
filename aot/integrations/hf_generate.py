"""The calls of a model that one conversation makes.

A step is one call of the model's forward. `generate` may bring a prompt in pieces, encode its videos before, and go on
from a cache that is shorter than the caller knows; what a step adds to its cache is found out here.
"""

import inspect
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..config import AOTConfig
from ..errors import AOTError
from ..types import CompressedVideo
from .duplicate_frames import TowerWork
from .kv_cache import NAMES, rows_of, take_cache
from .pruned_prompt import PrunedPrompt, positions
from .wrapped_method import WrappedMethod

APPLIED = "_aot_applied"  # on the model and on its inner one, a State
PROMPT = "_aot_prompt"  # on a cache, a PrunedPrompt
ENCODED = "_aot_encoded"  # on what get_video_features returned, a list of EncodedVideo
NO_IDS = "aot.apply finds videos in a prompt by its input_ids; give these, not inputs_embeds."
generate_call: ContextVar["GenerateCall | None"] = ContextVar("aot_generated", default=None)


@dataclass
class State:
    """What is in force on one model: settings, hooks, and what became of the videos of the last prompt.

    methods: what stands on the model in front of its own. seconds: that compressing them took. work: the tower's for
    the last of them. generating: calls of generate that have not ended.
    """

    config: AOTConfig
    handles: list = field(default_factory=list)
    methods: list["WrappedMethod"] = field(default_factory=list)
    last: list[CompressedVideo] = field(default_factory=list)
    seconds: float = 0.0
    work: TowerWork = field(default_factory=lambda: TowerWork(None))
    generating: int = 0

    def forget(self, work: TowerWork | None = None) -> None:
        """A prompt comes; work: the tower's for what of it was encoded before."""
        self.last, self.seconds, self.work = [], 0.0, work or TowerWork(None)

    def remove(self) -> None:
        """Takes hooks and methods off the model. AOTError while it generates, in another thread."""
        if self.generating:
            raise AOTError(
                "The model still generates, and its cache holds a shortened prompt; wait for the answer before the "
                "reduction is taken off or its block ends."
            )
        for part in (*self.handles, *self.methods):
            part.remove()


@dataclass(frozen=True)
class EncodedVideo:
    """features: (F, N, D) projected, before pooling; outputs: of the tower, by name, (F, N, ...).

    grid: (H, W) of the N tokens of a frame. still: it is an image, which stays as it is. levels: (F·N, D) each, rows of
    earlier layers for the tokens (DeepStack).
    """

    features: torch.Tensor
    outputs: dict[str, torch.Tensor]
    grid: tuple[int, int]
    still: bool = False
    levels: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class KeptVideo:
    """What is left of a video, and of its DeepStack levels, (S, D) each."""

    video: CompressedVideo
    levels: tuple[torch.Tensor, ...] = ()


@dataclass
class GenerateCall:
    """The prompts of a call of `generate`, as far as no cache holds them yet, and their videos once they are encoded.

    ids: (B, n). start: tokens behind the prompts that the cache held before. frame_ranges: of videos, from the caller.
    """

    ids: torch.Tensor
    start: int
    frame_ranges: Sequence[range] = ()
    encoded: list[EncodedVideo] | None = None
    kept: list[KeptVideo | None] | None = None


@dataclass(frozen=True)
class EncodedVideos:
    """Videos of a call of the model.

    repeats: how often `generate` repeats each for its beams. whole: the prompts when this call reads a piece of them.
    """

    videos: list[EncodedVideo]
    repeats: int = 1
    whole: GenerateCall | None = None


def split_videos(
    features: torch.Tensor, outputs: dict[str, torch.Tensor], frames: Sequence[int], grid: tuple[int, int]
) -> list[EncodedVideo]:
    """Each of the videos, of so many frames, from what a tower gave of all frames: (F, N, D), outputs (F, N, ...)."""
    each = {name: value.split(list(frames)) for name, value in outputs.items()}
    return [
        EncodedVideo(part, {name: value[number] for name, value in each.items()}, grid)
        for number, part in enumerate(features.split(list(frames)))
    ]


def generate(
    forward: Callable,
    argument: str | None,
    original: Any,
    model: Any,
    inputs: torch.Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The model's generate, which lets the hook of the model see the whole prompt that it may get in pieces.

    forward: of the model's class. argument: that says which images are frames, or None.
    """
    state = model.__dict__.get(APPLIED)
    if state is None:  # somebody kept the method, and the reduction was taken off
        return original(model, inputs, *args, **kwargs)
    state.forget()
    ids = kwargs.get("input_ids") if inputs is None else inputs
    frame_ranges = take_frame_ranges(kwargs, argument)
    if frame_ranges and ids is None:
        raise AOTError(NO_IDS)
    token = generate_call.set(None if ids is None else new_call(model, forward, ids, args, kwargs, frame_ranges))
    state.generating += 1
    try:
        return original(model, inputs, *args, **kwargs)
    finally:
        state.generating -= 1
        generate_call.reset(token)


def repeat(cannot: Callable, original: Any, model: Any, expand_size: int = 1, *args: Any, **kwargs: Any) -> Any:
    """The step of generate that repeats prompts, where transformers 4 may mix up their videos: `cannot` says when."""
    ids = kwargs.get("input_ids")
    if expand_size > 1 and ids is not None and cannot(model, ids, kwargs):
        raise AOTError(
            "This release of transformers cannot repeat these prompts with their videos; leave num_beams and "
            "num_return_sequences at 1, or install transformers 5."
        )
    return original.__get__(model)(expand_size, *args, **kwargs)  # a static method of most models


def take_frame_ranges(kwargs: dict, argument: str | None) -> Sequence[range]:
    """Takes what a caller said of the videos out of the arguments; AOTError when there are no pixels to it."""
    frame_ranges = kwargs.pop(argument, None) if argument is not None else None
    if frame_ranges and kwargs.get("pixel_values") is None and not kwargs.get("mm_encoder_outputs"):
        raise AOTError(f"{argument} came without pixel_values; give the processor's whole output.")
    return frame_ranges or ()


def new_call(
    model: Any, forward: Callable, ids: torch.Tensor, args: tuple, kwargs: dict, frame_ranges: Sequence[range]
) -> GenerateCall:
    """What a call of `generate` adds to its cache; AOTError when it reads pieces that the hooks do not see."""
    settings = next((value for value in (*args, kwargs.get("generation_config")) if value is not None), None)
    settings = model.generation_config if settings is None else settings
    in_pieces = kwargs.get("prefill_chunk_size", getattr(settings, "prefill_chunk_size", None))
    if in_pieces and "mm_encoder_outputs" not in inspect.signature(forward).parameters:
        raise AOTError("This release of transformers cannot read a video in pieces; leave prefill_chunk_size out.")
    if in_pieces and has_linear_attention(model):
        raise AOTError("Linear attention takes gaps between pieces for tokens; leave prefill_chunk_size out.")
    cache, mask = take_cache({name: kwargs.get(name) for name in NAMES}), kwargs.get("attention_mask")
    past = pruned_prompt_of(cache, ids)
    if in_pieces and past is not None:
        raise AOTError("Behind a shortened prompt generate does not find the pieces; leave prefill_chunk_size out.")
    if past is not None and past.following is not None:
        # others may have generated since
        model.model.rope_deltas = past.following - past.attention_mask.sum(1, keepdim=True)
    start = entries(cache) if past is None else past.original_length_of(entries(cache))
    before = 0 if mask is None else mask.shape[1] - ids.shape[1]  # places that only the mask speaks of
    return GenerateCall(ids[:, max(0, start - before) :], start, frame_ranges)


def has_linear_attention(model: Any) -> bool:
    """Are there layers whose state runs on through padding, which must not stand between tokens?"""
    return "linear_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ())


def check_gaps(model: Any, cache_mask: torch.Tensor, counts: torch.Tensor) -> None:
    """AOTError for padding behind a turn (B, cached) that linear attention would read; counts: (B, n) of what comes."""
    if cache_mask.shape[1] and counts.shape[1] > 1 and has_linear_attention(model) and not bool(counts.all()):
        raise AOTError("Linear attention takes padding behind a turn for tokens; go on with one prompt at a time.")


def decodes(kwargs: dict, cache: Any) -> bool:
    """Is this a step of one token behind a prompt?"""
    ids = kwargs.get("input_ids")
    return ids is not None and ids.shape[1] == 1 and entries(cache) > 0


def check_step(kwargs: dict, *, has_video: bool) -> None:
    """AOTError for masks and prompts that cannot be gone on from, or be shortened."""
    mask = kwargs.get("attention_mask")
    if mask is not None and not (isinstance(mask, torch.Tensor) and mask.dim() == 2):
        raise AOTError("aot.apply works with the growing cache that generate uses by itself; leave static caches out.")
    if kwargs.get("input_ids") is None:
        raise AOTError(NO_IDS)
    if has_video and isinstance(kwargs.get("logits_to_keep"), torch.Tensor):
        raise AOTError("logits_to_keep names places of the unshortened prompt; give a number of last places.")
    if has_video and kwargs.get("shift_labels") is not None:
        raise AOTError("shift_labels belong to the unshortened prompt; give labels.")


def check_positions(given: torch.Tensor | None, kwargs: dict, past_length: int, new: torch.Tensor) -> None:
    """AOTError for positions that do not count the tokens, as those of several prompts packed in a row do not.

    given: (1 or B, >= n) or None. kwargs: of the call, with its mask. new: (B, n) which of the places count. A step of
    one token is not looked at, which would wait for the device.
    """
    count = new.shape[1]
    if given is None or count == 1:
        return
    mask = kwargs.get("attention_mask")
    expected = positions(new.new_ones(len(new), past_length + count) if mask is None else mask, count)
    if bool(((given[:, -count:] != expected) & new.bool()).any()):
        raise AOTError(
            "position_ids do not count the tokens of each prompt; leave them out, and give packed prompts as rows."
        )


def check_unknown(kwargs: dict, cache: Any, token: int) -> None:
    """AOTError for a step that goes on from a prompt with a video of which its cache says nothing."""
    ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
    if ids is None or not (mask is None or isinstance(mask, torch.Tensor) and mask.dim() == 2):
        return
    unknown = mask is not None and mask.shape[1] > ids.shape[1] and mask.shape[1] > entries(cache) + ids.shape[1]
    # of a static cache a mask may be as wide as there is room
    if unknown and int(mask.sum(1).max()) > entries(cache) + ids.shape[1]:
        raise AOTError(
            "This step goes on from a prompt that its cache does not know; give the very cache that came with the "
            "answer about the video, or the whole prompt with its video."
        )
    call = generate_call.get()
    if call is not None and call.encoded is not None or entries(cache) > 0:
        check_text(ids, token)


def check_text(ids: torch.Tensor, token: int) -> None:
    """AOTError for new ids (B, n) with placeholders of a video that did not come with them."""
    # a single token is no prompt, and looking at it would wait for the device at every step
    if ids.shape[1] > 1 and bool((ids == token).any()):
        raise AOTError(
            "Placeholders of a video came without it, as this release of transformers loses it in a later turn or in "
            "pieces; give the whole conversation with its videos, without a cache and without prefill_chunk_size."
        )


def entries(cache: Any) -> int:
    """Entries of a cache, 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())


def pruned_prompt_of(cache: Any, ids: torch.Tensor | None) -> PrunedPrompt | None:
    """What a cache knows of itself for the rows of ids (B, n); None where its prompt was not shortened.

    AOTError for a cache that was cut in front of the end of its videos.
    """
    past: PrunedPrompt | None = getattr(cache, PROMPT, None)
    if past is None:
        return None
    if (held := entries(cache)) == 0:  # it was emptied
        delattr(cache, PROMPT)
        return None
    if held < past.videos_end:
        raise AOTError(
            f"The cache was cut to {held} entries and its videos end behind {past.videos_end}; cut it behind them, or "
            "give the whole conversation and no cache."
        )
    return past if ids is None else past.for_rows(len(ids), rows_of(cache))


def new_ids(kwargs: dict, past_length: int, cached: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Ids (B, n) that the cache does not hold, and the caller's mask (B, past_length + n) or None."""
    ids, mask, call = kwargs["input_ids"], kwargs.get("attention_mask"), generate_call.get()
    given = ids.shape[1]
    total = past_length + given
    if mask is not None:
        total = mask.shape[1]
    elif given > 1 and cached and call is not None and call.start == past_length:
        total = past_length + call.ids.shape[1]  # generate drops a mask without padding
    # generate takes the cache for as long as it is, and cuts the whole prompt there
    fits = [given == one for one in (total - past_length, total - cached, total)]  # torch.compile gets `in` wrong here
    if not any(fits) or total <= past_length:
        raise AOTError(
            f"A step of {given} tokens does not go on from the {past_length} behind it; aot.apply does not work with "
            "a cache that was cut, as the assisted generation of transformers 4 does."
        )
    return ids[:, given - (total - past_length) :], mask


def encoded_before(ready: Any, ids: torch.Tensor, tiles: Callable) -> EncodedVideos:
    """Videos that `generate` of transformers 5 encoded before this call; ready: what get_video_features gave.

    tiles: how many of its entries a video is.
    """
    videos, call = getattr(ready, ENCODED, None), generate_call.get()
    if videos is not None:
        return EncodedVideos(videos, len(ready.pooler_output) // sum(map(tiles, videos)))
    if call is None or call.encoded is None:
        raise AOTError("The video was encoded before aot.apply; encode it again, after it.")
    return EncodedVideos(call.encoded, len(ids) // len(call.ids), call)


def check_encoded(encoded: EncodedVideos, frame_ranges: Sequence[range], argument: str | None) -> None:
    """AOTError for frames that were encoded as images, before the caller said which of them are frames."""
    if frame_ranges and all(video.still for video in encoded.videos):
        raise AOTError(
            f"The images were encoded before {argument} said which of them are frames; give pixel_values in the same "
            "call."
        )


def whole_prompt(encoded: EncodedVideos, ids: torch.Tensor, past_length: int) -> tuple[torch.Tensor, int]:
    """The prompts (B, L) of which ids (B, n) may be a piece, and where in them it begins."""
    if encoded.whole is None:
        return ids, 0
    whole, at = encoded.whole.ids.repeat_interleave(encoded.repeats, dim=0), past_length - encoded.whole.start
    if not torch.equal(whole[:, at : at + ids.shape[1]], ids):
        raise AOTError("The prompt that came in pieces is not the one that generate was called with.")
    return whole, at


def compress_videos(
    state: State, encoded: EncodedVideos, compress_one: Callable[[EncodedVideo], KeptVideo]
) -> list[KeptVideo | None]:
    """Each video compressed by `compress_one` and checked, None for an image; a prompt in pieces does it once."""
    if encoded.whole is not None and encoded.whole.kept is not None:
        return encoded.whole.kept
    started = time.perf_counter()
    kept = [None if video.still else compress_one(video) for video in encoded.videos]
    for one in kept:
        if one is not None:
            one.video.check()  # which places stay is read from the device anyway
    state.seconds = time.perf_counter() - started
    videos = [one.video for one in kept if one is not None]
    # without what a backward pass holds on to
    state.last = [replace(video, tokens=video.tokens.detach()) for video in videos]
    if encoded.whole is not None:
        encoded.whole.kept = kept
    return kept


def loss_of(model: Any, kwargs: dict, parts: tuple, labels: torch.Tensor) -> torch.Tensor:
    """The model's own loss of a call without labels. parts: its output. labels: (B, L'), -100 where there is none."""
    parameters = inspect.signature(type(model).forward).parameters
    passed = {name: value for name, value in kwargs.items() if name not in parameters}  # as forward passes them on
    labels = labels.masked_fill(labels == -100, passed.get("ignore_index", -100))
    text = model.config.get_text_config()
    logits = next(part for part in parts if isinstance(part, torch.Tensor) and part.dim() == 3)
    loss = model.loss_function(logits=logits, labels=labels, vocab_size=text.vocab_size, **passed)
    # a mixture of experts tells in a single number how unevenly they were chosen
    for uneven in (part for part in parts if isinstance(part, torch.Tensor) and part.dim() == 0):
        loss = loss + text.router_aux_loss_coef * uneven.to(loss.device)
    return loss
