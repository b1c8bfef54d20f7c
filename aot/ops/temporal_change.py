"""How much each token changes from one frame to the next."""

import torch

from .common import inverse_length, use_triton


@torch.no_grad()
def temporal_change(tokens: torch.Tensor, before: torch.Tensor | None = None, *, backend: str = "auto") -> torch.Tensor:
    """Change of each token, (T, P) float32 in [0, 2]: 1 - cos with the same place one frame earlier.

    tokens: (T, P, D). before: (1, P, D), the frame before the first one. Without it the first frame is compared with
    the mean of its tokens scaled to length 1, so that its change is its rarity in the frame. No normalised copy of the
    tokens is written: lengths divide products.
    """
    if use_triton(backend, "temporal_change", tokens, *([] if before is None else [before])):
        from .triton.temporal_change import temporal_change as kernel

        return kernel(tokens, before)
    tokens = tokens.float()
    inverse = inverse_length(tokens)
    later = torch.linalg.vecdot(tokens[1:], tokens[:-1]) * inverse[1:] * inverse[:-1]
    if before is None:
        before = (inverse[:1].unsqueeze(1) @ tokens[:1]) / tokens.shape[1]  # (1, 1, D), the mean
    first = torch.linalg.vecdot(tokens[:1], before.float()) * inverse[:1] * inverse_length(before.float())
    return (1 - torch.cat([first, later])).clamp_min(0)
