"""Projector from tower width to language model width."""

import re

from torch import nn

from llava.model.loading import CheckpointError


def build_vision_projector(config) -> nn.Module:
    """A projector (..., mm_hidden_size) -> (..., hidden_size) of kind ``config.mm_projector_type``.

    ``linear`` is one layer; ``mlpNx_gelu`` is N linear layers with GELU between them, whose parameters are
    named 0, 2, 4, … as in published checkpoints, N up to 9. Raises CheckpointError for any other kind.
    """
    kind = getattr(config, "mm_projector_type", None) or "linear"
    if kind == "linear":
        return nn.Linear(config.mm_hidden_size, config.hidden_size)
    match = re.fullmatch(r"mlp([1-9])x_gelu", str(kind))
    if match is None:
        raise CheckpointError(f"Unknown mm_projector_type {kind!r} in config.json; use 'linear' or 'mlp2x_gelu'.")
    layers: list[nn.Module] = [nn.Linear(config.mm_hidden_size, config.hidden_size)]
    for _ in range(int(match.group(1)) - 1):
        layers += [nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)]
    return nn.Sequential(*layers)
