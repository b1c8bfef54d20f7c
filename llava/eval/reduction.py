"""The reduction of one video under a setting, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

import torch

from aot import AOTConfig
from llava.eval.peak import PeakMemory
from llava.eval.settings import Setting


@dataclass(frozen=True)
class Cost:
    """One reduction. tokens, newlines: kept, inside the language model the mean over its layers; before: pooled tokens
    of the video; milliseconds: of the method alone, None where it is part of the language model.
    """

    tokens: float
    newlines: int
    before: int
    milliseconds: float | None


def summary(costs: Sequence[Cost | None], extra_mib: float | None) -> dict | None:
    """Mean counts, median time and MiB on top of the inputs as plain JSON values; None where nothing was reduced."""
    costs = [c for c in costs if c is not None]
    if not costs:
        return None
    counts = {name: mean(getattr(c, name) for c in costs) for name in ("tokens", "newlines", "before")}
    times = [c.milliseconds for c in costs if c.milliseconds is not None]
    return {**counts, "milliseconds": median(times) if times else None, "extra_mib": extra_mib}


@torch.inference_mode()
def reduce(model, video, config: AOTConfig | None) -> tuple[torch.Tensor, Cost | None]:
    """Visual tokens (S, D) of an encoded video, newline tokens included, under a configuration."""
    model.config.aot = None if config is None else config.to_dict()
    tokens, result = model.video_tokens(video)
    if result is None:
        return tokens, None
    time = model.last_timing["compress"]
    return tokens, Cost(result.num_visual, result.num_newlines, result.tokens_before, time)


def pruning_cost(model) -> Cost:
    """Counts of the last prompt of a model that dropped tokens inside."""
    (counts,), (video,) = model.last_pruning, model.last_compression
    return Cost(counts.layer_average * counts.visual, video.num_newlines, counts.visual, None)


@torch.inference_mode()
def extra_memory(model, video, setting: Setting) -> float | None:
    """MiB that a reduction before the language model needs on top of its inputs, None where there is none.

    Watching makes it slow, so it is apart from `reduce`.
    """
    if setting.config is None or setting.inside:
        return None
    model.config.aot = setting.config.to_dict()
    with PeakMemory() as memory:
        model.video_tokens(video)
    return memory.peak / 2**20


def fit_anchors(model, videos: Sequence, setting: Setting) -> Setting:
    """The setting with the num_anchors whose mean share of kept tokens comes nearest to its retention.

    Settings that keep an exact share come back as they are. The share grows with the anchors, so it is bisected.
    """
    if not setting.fit:
        return setting

    def share(anchors: int) -> float:
        costs = [reduce(model, v, setting.config.replace(num_anchors=anchors))[1] for v in videos]
        return sum(c.tokens for c in costs) / sum(c.before for c in costs)

    low, high = 1, videos[0].features.shape[1]  # share(high) is everything or more
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(middle) <= setting.retention else (low, middle)
    best = min((low, high), key=lambda anchors: abs(share(anchors) - setting.retention))
    return replace(setting, config=setting.config.replace(num_anchors=best))
