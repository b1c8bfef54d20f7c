"""The reduction of one video under a setting, and what it cost in time and memory."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aot import AOTError
from llava.eval.exam.perturb import perturb_input, perturbed_order
from llava.eval.exam.settings import ExamSetting

TIMED = 5  # runs of which the fastest counts


@dataclass(frozen=True)
class Counts:
    """Tokens of one video. visual, newlines: kept, inside the language model the mean over its layers.
    visual_before: pooled tokens of the video. tower_share: of the tower's counted operations those that were spent.
    """

    visual: float
    newlines: int
    visual_before: int
    tower_share: float = 1.0


@torch.inference_mode()
def compress_clip(model, video, setting: ExamSetting, *, seed: int = 0) -> tuple[torch.Tensor, Counts | None]:
    """Visual tokens (S, D) of an encoded video, newline tokens included, under a setting.

    seed: of what the setting alters at random.
    """
    model.config.aot = None if setting.config is None else setting.config.to_dict()
    tokens, result = model.video_tokens(perturb_input(video, setting.perturbation, seed))
    if result is None:
        return tokens, None
    result.check()
    order = perturbed_order(result, setting.perturbation, seed)
    counts = Counts(result.num_visual, result.num_newlines, result.tokens_before)
    return (tokens if order is None else tokens[order]), counts


@torch.inference_mode()
def own_cost(model, video, setting: ExamSetting) -> dict[str, float | None]:
    """Milliseconds (the fastest of `TIMED` runs) and MiB on top of its inputs of a reduction before the language model.

    None for both where there is none.
    """
    if setting.config is None or setting.inside:
        return {"milliseconds": None, "extra_mib": None}
    times = []
    for _ in range(TIMED):
        compress_clip(model, video, setting)
        times.append(model.last_timing["compress"])
    with PeakMemory() as memory:
        model.video_tokens(video)
    return {"milliseconds": min(times), "extra_mib": memory.peak / 2**20}


def fit_anchors(model, videos: Sequence, setting: ExamSetting) -> ExamSetting:
    """The setting with the num_anchors whose mean share of kept tokens comes nearest to its retention.

    Settings that keep an exact share come back as they are. The share grows with the anchors, so it is bisected.
    """
    if not setting.fit:
        return setting

    def share(anchors: int) -> float:
        try:
            fitted = replace(setting, config=setting.config.replace(num_anchors=anchors))
            counts = [compress_clip(model, v, fitted)[1] for v in videos]
        except AOTError:  # a tower frame has room for them, so they are too few to leave a token
            return 0.0
        return sum(c.visual for c in counts) / sum(c.visual_before for c in counts)

    low, high = 1, videos[0].features.shape[1]  # share(high) is everything or more
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(middle) <= setting.retention else (low, middle)
    best = min((low, high), key=lambda anchors: abs(share(anchors) - setting.retention))
    return replace(setting, config=setting.config.replace(num_anchors=best))


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors made inside it; ``peak`` is the most that were alive at once.

    Every operation is seen, so it works on any device; scratch memory inside a single operation is not.
    """

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self.known.add(tensor.untyped_storage())
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._release, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return out

    def _release(self, size: int) -> None:
        self.alive -= size
