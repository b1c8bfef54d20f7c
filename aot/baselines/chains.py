"""Chains of tokens, each joined to one of the frame before it."""

import torch


def roots(joined: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """(T·K,) int64: the first token of the chain that each token is joined to, itself where it is not.

    joined, partner: (T - 1, K) of frames 1 to T - 1; partner counts inside the frame before.
    """
    pairs, count = joined.shape
    own = torch.arange((pairs + 1) * count, device=partner.device)
    before = own[: pairs * count].view_as(partner) // count * count + partner
    root = torch.cat([own[:count], torch.where(joined.flatten(), before.flatten(), own[count:])])
    for _ in range(pairs.bit_length()):
        root = root[root]
    return root
