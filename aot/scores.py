"""What makes a pooled token worth keeping: attention, change in time, rarity in its frame."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Scores:
    """(T, P) float32 maps. change and rarity are cosine costs in [0, 2]; local and global_ rank tokens."""

    local: torch.Tensor
    global_: torch.Tensor
    change: torch.Tensor
    rarity: torch.Tensor


def unit(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (..., D) scaled to length 1 in float32; tokens of zeros stay zero."""
    tokens = tokens.float()
    norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    return tokens / norm.clamp_min(torch.finfo(torch.float32).tiny)


def change(units: torch.Tensor) -> torch.Tensor:
    """1 - cos of each token with the same place one frame earlier, 0 in frame 0. units: (T, P, D); (T, P)."""
    moved = (1 - torch.linalg.vecdot(units[1:], units[:-1])).clamp_min(0)
    return torch.cat([torch.zeros_like(units[:1, :, 0]), moved])


def relative(importance: torch.Tensor) -> torch.Tensor:
    """Importance (T, P) divided by its frame's mean; a frame without any is 1 everywhere."""
    mean = importance.mean(dim=-1, keepdim=True)
    return torch.where(mean > 0, importance / mean.clamp_min(torch.finfo(torch.float32).tiny), 1.0)


def token_scores(
    change: torch.Tensor,
    rarity: torch.Tensor,
    shallow: torch.Tensor,
    deep: torch.Tensor,
    first: torch.Tensor,
    *,
    refresh: float,
    attention_power: float,
    change_power: float,
    rarity_power: float,
) -> Scores:
    """Scores attention^a · change^c · rarity^r of all tokens: local by shallow, global_ by deep attention.

    change, rarity: (T, P) of `ops.novelty`. shallow, deep: (T, P) pooled importance. first: (T,) bool, frames to be
    shown afresh: they are predicted from their own mean, not from the frame before, so a token is as new as
    it is rare. In the other frames it is at least `refresh` times that new, so that what stays is shown again.
    """
    moved = torch.maximum(change, rarity * torch.where(first, 1.0, refresh).unsqueeze(-1))
    # the floor keeps the order of attention where nothing moves and nothing is rare
    new = moved.clamp_min(1e-6) ** change_power * rarity.clamp_min(1e-6) ** rarity_power
    return Scores(
        local=relative(shallow) ** attention_power * new,
        global_=relative(deep) ** attention_power * new,
        change=moved,
        rarity=rarity,
    )
