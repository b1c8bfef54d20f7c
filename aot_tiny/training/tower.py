"""First stage of aot-tiny: the vision tower learns to say, for every patch, what lies there."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from aot_tiny.training.data import COLOR_NAMES, IGNORE, SHAPE_NAMES


class DenseTower(nn.Module):
    """A tower with linear heads on its patch features; the heads are thrown away afterwards.

    places: also ask where in the frame each patch lies. Without that question the features forget it, and a
    language model cannot tell left from right.
    distilling: weight of the distance to the features that the tower had at the start, everywhere but on signs, so
    that a language model still reads it (learning without forgetting, Li and Hoiem, 2016); none without `start_from`.
    """

    def __init__(self, tower: nn.Module, width: int, grid: int, *, places: bool, distilling: float = 0.0):
        super().__init__()
        self.tower, self.places, self.distilling = tower, places, distilling
        self.teacher = copy.deepcopy(tower).requires_grad_(False)
        self.register_buffer("taught", torch.tensor(False))  # random weights teach nothing
        self.color = nn.Linear(width, 1 + len(COLOR_NAMES))
        self.shape = nn.Linear(width, 1 + len(SHAPE_NAMES))
        self.digit = nn.Linear(width, 11)
        self.offset = nn.Linear(width, 2)
        self.row, self.column = nn.Linear(width, grid), nn.Linear(width, grid)

    def start_from(self, weights: dict[str, torch.Tensor]) -> None:
        """Takes over a tower, to learn on from and to stay near."""
        self.tower.load_state_dict(weights)
        self.teacher.load_state_dict(weights)
        self.taught.fill_(True)

    def forward(self, pixels, color, shape, digit, offset):
        """pixels (B, T, 3, S, S); labels (B, T, g, g); the loss, and the accuracies on patches of things."""
        features = self.tower(pixels.flatten(0, 1)).float()  # (B·T, g·g, width)
        grid = color.shape[-1]
        color, shape, digit, offset = color.flatten(), shape.flatten(), digit.flatten(), offset.flatten(0, -2)
        hue, form = self.color(features).flatten(0, 1), self.shape(features).flatten(0, 1)
        things = color > 0
        figure, signs = self.digit(features).flatten(0, 1), digit > 0
        loss = _balanced(hue, color) + _balanced(form, shape)
        if signs.any():
            loss = loss + F.cross_entropy(figure[signs], digit[signs])
        loss = loss + F.smooth_l1_loss(self.offset(features).flatten(0, 1)[things], offset[things])
        seen = {
            "color": (hue.argmax(-1) == color)[things].float().mean().detach(),
            "shape": (form.argmax(-1) == shape)[things].float().mean().detach(),
            "digit": (figure.argmax(-1) == digit)[signs].float().mean().detach(),
        }
        if self.places:
            patch = torch.arange(grid * grid, device=features.device).repeat(len(features))
            row, column = self.row(features).flatten(0, 1), self.column(features).flatten(0, 1)
            loss = loss + F.cross_entropy(row, patch // grid) + F.cross_entropy(column, patch % grid)
            seen["row"] = (row.argmax(-1) == patch // grid).float().mean().detach()
        if self.distilling and self.taught:
            with torch.no_grad():
                before = self.teacher(pixels.flatten(0, 1)).float().flatten(0, 1)
            same = (digit <= 0) & (color != IGNORE)  # all that is no sign
            missed = (features.flatten(0, 1) - before)[same].square() / before.var(0).clamp_min(1e-4)
            loss = loss + self.distilling * missed.mean()
            seen["missed"] = missed.mean().detach()
        return {"loss": loss, **seen}


def _balanced(logits, labels):
    """Cross-entropy with the background, nearly all of the patches, at a fifth of its weight."""
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[0] = 0.2
    return F.cross_entropy(logits, labels, weight, ignore_index=IGNORE)
