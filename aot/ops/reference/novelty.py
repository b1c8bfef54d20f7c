"""How new and how rare tokens are."""

import torch

from .groups import inverse_length


def novelty(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """change, rarity (T, P); as in `aot.ops.novelty`. Norms divide products, not tokens."""
    tokens = tokens.float()
    by = inverse_length(tokens)
    moved = torch.linalg.vecdot(tokens[1:], tokens[:-1]) * by[1:] * by[:-1]
    change = torch.cat([torch.zeros_like(by[:1]), (1 - moved).clamp_min(0)])
    mean = torch.bmm(by.unsqueeze(1), tokens).transpose(1, 2)
    with_mean = torch.bmm(tokens, mean).squeeze(-1) * by * inverse_length(mean.squeeze(-1)).unsqueeze(-1)
    return change, (1 - with_mean).clamp_min(0)
