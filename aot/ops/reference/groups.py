"""Groups of consecutive frames, and lengths of tokens."""

import torch


def group_frames(tokens: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """(G, length·P, D) tokens of each group; a view when the groups are equally long."""
    groups = starts.shape[0]
    if groups * length == tokens.shape[0]:
        return tokens.reshape(groups, -1, tokens.shape[2])
    frame = starts.unsqueeze(1) + torch.arange(length, device=starts.device)
    return tokens[frame.clamp_max(tokens.shape[0] - 1)].flatten(1, 2)


SHORTEST = 1e-18  # below it float32 loses the squares of values; such a token counts as zeros


def inverse_length(tokens: torch.Tensor) -> torch.Tensor:
    """(...,) float32 of tokens (..., D): 1 / length, 0 below SHORTEST: tokens of zeros have no direction."""
    norm = torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float32)
    return torch.where(norm > SHORTEST, 1 / norm, 0.0)
