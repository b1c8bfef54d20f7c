"""What an ablation may change around a method: the importance it is given, the order of the tokens it gives."""

from __future__ import annotations

from dataclasses import replace

import torch

from aot import CompressedVideo, TokenKind
from llava.model.compression import VideoFeatures

PERTURBATIONS = ("random_importance", "shuffled_in_frames", "shuffled")


def perturb_input(video: VideoFeatures, perturbation: str | None, seed: int) -> VideoFeatures:
    """The video with uniform random importance of both layers, if that is asked for."""
    if perturbation != "random_importance":
        return video
    noise = torch.Generator().manual_seed(seed)
    shallow, deep = (torch.rand(video.features.shape[:2], generator=noise).to(video.features.device) for _ in range(2))
    return replace(video, shallow=shallow, deep=deep)


def perturbed_order(result: CompressedVideo, perturbation: str | None, seed: int) -> torch.Tensor | None:
    """(S,) order in which the tokens are to be read, newline tokens where they were; None as they come."""
    if perturbation not in ("shuffled_in_frames", "shuffled"):
        return None
    visual = (result.kind != int(TokenKind.NEWLINE)).nonzero().squeeze(-1)
    shuffled = visual[torch.randperm(len(visual), generator=torch.Generator().manual_seed(seed)).to(visual.device)]
    if perturbation == "shuffled_in_frames":
        shuffled = shuffled[result.frame[shuffled].argsort(stable=True)]
    return torch.arange(len(result.kind), device=visual.device).scatter(0, visual, shuffled)
