"""Sketches of tokens: fewer channels between which angles are nearly those of the tokens."""

import torch

from .common import remembered


def count_sketch(tokens: torch.Tensor, channels: int) -> torch.Tensor:
    """Sums of every `channels`-th channel with random signs, (..., channels) float32: a count sketch.

    tokens: (..., D) of any float dtype, D at least twice the channels. On average the squared distance of two sketches
    is that of the tokens. Its standard deviation is about √(2 / channels) of it, a sixteenth at 512 (Weinberger et al.,
    *Feature Hashing for Large Scale Multitask Learning*, ICML 2009).
    """
    width = tokens.shape[-1]
    sign = signs(width, tokens.device)
    sums = tokens[..., :channels].float() * sign[:channels]
    for start in range(channels, width, channels):
        part = tokens[..., start : start + channels]
        sums[..., : part.shape[-1]].addcmul_(part.float(), sign[start : start + channels])
    return sums


@remembered
def signs(width: int, device: torch.device) -> torch.Tensor:
    """(width,) float32 of 1 and -1: the lowest bit of MurmurHash3's 32-bit finaliser (Appleby) of the channel."""
    mixed = torch.arange(1, width + 1)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * factor & 0xFFFFFFFF
    mixed = mixed ^ (mixed >> 16)
    return (1 - 2 * (mixed & 1)).float().to(device)
