"""How new tokens are."""

import torch

from .groups import inverse_length


def novelty(tokens: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
    """(T, P); as in `aot.ops.novelty`. Norms divide products, not tokens."""
    tokens = tokens.float()
    by = inverse_length(tokens)
    moved = torch.linalg.vecdot(tokens[1:], tokens[:-1]) * by[1:] * by[:-1]
    if before is None:
        before = (by[:1].unsqueeze(1) @ tokens[:1]) / tokens.shape[1]  # (1, 1, D), the mean
    first = torch.linalg.vecdot(tokens[:1], before.float()) * by[:1] * inverse_length(before.float())
    return (1 - torch.cat([first, moved])).clamp_min(0)
