"""`apply` and `remove`: token reduction on a model that is already there, in one line."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .config import AOTConfig
from .errors import AOTError
from .types import CompressedVideo


class Applied:
    """Token reduction in force on one model.

    config: its settings. As a context manager it gives the model back the settings (or none) that it had
    before `apply`.
    """

    def __init__(self, model: nn.Module, integration: Any, config: AOTConfig, previous: AOTConfig | None):
        self.model, self.config = model, config
        self._integration, self._previous = integration, previous

    @property
    def last(self) -> list[CompressedVideo]:
        """What became of each video of the last prompt that the model read, in `generate` or a call of its own.

        In the order of the videos; empty where none came: after a text or an image alone, after a call that was
        refused, and after a later turn, whose cache holds the videos. Steps of one token change nothing.
        """
        return self._integration.last(self.model)

    @property
    def seconds(self) -> float:
        """Seconds that compressing the videos of `last` took, on a GPU without waiting for it."""
        return self._integration.cost(self.model)[0]

    @property
    def tower_share(self) -> float:
        """Of the vision tower's counted operations for those videos, the share that `AOTConfig.tower_reuse` left."""
        return self._integration.cost(self.model)[1]

    def trace(self, inputs: Mapping[str, Any]) -> list[CompressedVideo]:
        """What becomes of each video of a call's inputs, with what pictures need; the language model is not asked."""
        return self._integration.trace(self.model, inputs)

    def __enter__(self) -> "Applied":
        current = self._integration.settings(self.model)
        if current != self.config:  # entered again, or taken off in between
            self._previous = current
            self._integration.attach(self.model, self.config)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is None:
            self._integration.detach(self.model)
        else:
            self._integration.attach(self.model, self._previous)


def apply(
    model: nn.Module,
    retention: float | None = None,
    *,
    config: AOTConfig | Mapping[str, Any] | None = None,
    **settings: Any,
) -> Applied:
    """Lets a model read its videos reduced; `generate`, `forward` and its processor stay as they are.

    model: transformers' LLaVA-OneVision, LLaVA-NeXT-Video, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5 or InternVL (the
    classes ...ForConditionalGeneration; see docs/models.md), or this project's LlavaQwenForCausalLM. InternVL is told
    which images are the frames of a video: `video_frames=[range(0, 16)]` in a call of the model or of `generate`.
    retention: share of the visual tokens kept, 0.1 when neither it nor max_tokens is given. settings: any of
    `AOTConfig`, such as max_tokens, the most of a video; or give a whole config (an AOTConfig, such as a preset, or its
    dict) instead. Images are not touched, nor any other model. Applying again replaces the settings; `remove` takes
    them away; used as ``with apply(model): …`` they hold for the block.

    In a direct call of the model, logits (B, L', V) and labels belong to the shortened prompt: of every
    video's placeholders only as many are left as it has tokens, padding is dropped, and shorter rows are filled on the
    left, so that every row ends with its last token.
    A cache that came with an answer is good for later turns as long as the reduction is in force.
    Wrappers come afterwards: apply before `torch.compile`, and to the model inside DistributedDataParallel or PEFT's.
    Raises AOTError for a model or settings that do not fit.
    """
    if config is None:
        config = AOTConfig.from_dict(settings if retention is None else {"retention": retention, **settings})
    elif retention is not None or settings:
        raise AOTError("Give either a whole config or single settings; config.replace(name=value) changes one.")
    elif isinstance(config, Mapping):
        config = AOTConfig.from_dict(config)
    elif not isinstance(config, AOTConfig):
        raise AOTError(f"config is a {type(config).__name__}; give an AOTConfig or its dict.")
    integration = _integration(model)
    previous = integration.settings(model)
    integration.attach(model, config)
    return Applied(model, integration, config, previous)


def remove(model: nn.Module) -> None:
    """Takes reduction off a model: its outputs are those of before `apply`, to the bit. No-op without it."""
    _integration(model).detach(model)


def _integration(model: nn.Module) -> Any:
    """What of `aot.integrations` belongs to a model, imported now."""
    from .integrations import hf_onevision, internvl, llava, llava_next_video, qwen_vl

    if not isinstance(model, nn.Module):
        told = model.__name__ if isinstance(model, type) else f"a {type(model).__name__}"
        raise AOTError(f"aot.apply takes a model that is loaded, not {told}; of a pipeline give its .model.")
    integrations = (llava, hf_onevision.FAMILY, llava_next_video.FAMILY, qwen_vl.FAMILY, internvl.FAMILY)
    for integration in integrations:
        if integration.fits(model):
            return integration
    inside = next(
        (part for part in model.modules() if any(integration.fits(part) for integration in integrations)), None
    )
    if inside is not None:
        raise AOTError(
            f"Give aot.apply the {type(inside).__name__} inside this {type(model).__name__}; torch.compile comes after "
            "aot.apply."
        )
    raise AOTError(
        f"aot.apply does not know {type(model).__name__}; give transformers' LLaVA-OneVision, LLaVA-NeXT-Video, a "
        "Qwen-VL, Qwen3.5 or InternVL (the classes ...ForConditionalGeneration), or LlavaQwenForCausalLM, or call "
        "aot.compress on its features."
    )
