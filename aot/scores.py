"""How much a pooled token weighs: attention and change in time."""

from dataclasses import dataclass

import torch

from .ops.reference.groups import SHORTEST


@dataclass(frozen=True)
class Weights:
    """(T, P) float32 maps: weights in the choice of local and global anchors; change, a cosine cost in [0, 2]."""

    local: torch.Tensor
    global_: torch.Tensor
    change: torch.Tensor


def unit(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (..., D) scaled to length 1 in float32; those shorter than SHORTEST become zeros."""
    tokens = tokens.float()
    norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    return tokens / norm.masked_fill(norm <= SHORTEST, torch.inf)


def change(units: torch.Tensor) -> torch.Tensor:
    """1 - cos of each token with the same place one frame earlier, 0 in frame 0. units: (T, P, D); (T, P)."""
    moved = (1 - torch.linalg.vecdot(units[1:], units[:-1])).clamp_min(0)
    return torch.cat([torch.zeros_like(units[:1, :, 0]), moved])


def relative(importance: torch.Tensor) -> torch.Tensor:
    """Importance (T, P) divided by its frame's mean; a frame without any is 1 everywhere."""
    tiny = torch.finfo(torch.float32).tiny  # 0 over 0 is 1; anything else stays what it is
    return (importance + tiny) / (importance.mean(dim=-1, keepdim=True) + tiny)


def token_weights(
    change: torch.Tensor, importance: torch.Tensor, *, attention_power: float, change_power: float
) -> Weights:
    """Weights attention^a · change^c of all tokens: local by shallow, global_ by deep attention.

    change: (T, P). importance: (2, T, P) pooled, of the shallow and of the deep layer.
    """
    # the floor keeps the order of attention where nothing moves
    moved = change.clamp_min(1e-6) ** change_power
    local, global_ = relative(importance) ** attention_power * moved
    return Weights(local, global_, change)
