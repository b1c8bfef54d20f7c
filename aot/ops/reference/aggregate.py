"""What a plan carries."""

import torch

from .groups import group_frames


def aggregate(plan: torch.Tensor, tokens: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """Tokens carried by plans, (G, K, D); arguments as in `aot.ops.aggregate`."""
    return torch.bmm(plan.transpose(1, 2), group_frames(tokens, starts, length).float())
