"""Ranks and indices of entries, without waiting for the device."""

import torch


def rank_descending(values: torch.Tensor) -> torch.Tensor:
    """Rank of each entry along the last axis, 0 for the largest; ties go to the lower index."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(values.shape[-1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, ranks)


def true_indices(mask: torch.Tensor, count: int) -> torch.Tensor:
    """(..., count) ascending indices of the first True entries of the last axis, 0 beyond them; nothing waits."""
    # entry i of a row goes to place (True entries before it); False ones go to a place behind all, which is cut off
    place = torch.where(mask, mask.cumsum(dim=-1) - 1, count).clamp_max_(count)
    each = torch.arange(mask.shape[-1], device=mask.device).expand_as(place)
    return place.new_zeros(*mask.shape[:-1], count + 1).scatter_(-1, place, each)[..., :count]
