"""Models that compress by themselves and read their settings from ``config.aot`` at every call."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..config import AOTConfig
from ..errors import AOTError
from ..types import CompressedVideo

_STATE = "_aot_applied"  # on the instance: (applied settings, config.aot before the first apply)


def fits(model: nn.Module) -> bool:
    """Does the model encode videos and make their tokens by the settings of ``config.aot``?"""
    methods = ("encode_video", "video_tokens")  # of the class: torch.compile's wrapper has its model's on the instance
    return all(callable(getattr(type(model), name, None)) for name in methods)


def settings(model: nn.Module) -> AOTConfig | None:
    """The applied settings, None when there are none."""
    state = model.__dict__.get(_STATE)
    return None if state is None else state[0]


def attach(model: Any, config: AOTConfig) -> None:
    """Sets ``config.aot`` of this instance alone."""
    if _STATE in model.__dict__:
        before = model.__dict__[_STATE][1]
    else:
        before = getattr(model.config, "aot", None)
        # a copy in the place of a configuration that other models may share, in all parts that refer to it
        shared, own = model.config, copy.copy(model.config)
        for module in model.modules():
            if module.__dict__.get("config") is shared:
                module.config = own
    model.__dict__[_STATE] = (config, before)
    model.config.aot = config.to_dict()


def detach(model: Any) -> None:
    """Puts ``config.aot`` back to what it was before the first `attach`."""
    state = model.__dict__.pop(_STATE, None)
    if state is not None:
        model.config.aot = state[1]


def last(model: Any) -> list[CompressedVideo]:
    """What became of each video of the last call."""
    return model.last_compression


def cost(model: Any) -> tuple[float, float]:
    """Of the last videos: seconds that compressing them took, and the share of the tower's operations spent."""
    spent, whole = model.last_tower_flops
    return model.last_timing["compress"] / 1e3, spent / whole if whole else 1.0


def trace(model: Any, inputs: Mapping[str, Any]) -> list[CompressedVideo]:
    """Not offered: `model.video_tokens(features, trace=True)` gives it."""
    raise AOTError("Ask this model itself: model.video_tokens(model.encode_video(pixels), trace=True).")
