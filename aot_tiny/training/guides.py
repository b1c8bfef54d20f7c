"""Guided attention: where the last token of a prompt should look, for the heads that are told.

What a question names, where the video shows the answer, and which option says it are known for every drawn clip. One
head of one layer is asked for each (the negative logarithm of its attention there), so that finding the answer is
learnt beside saying it. All other heads are free.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class Guides:
    """query: (B, R) place of every row's last prompt token. allowed: (B, R, L) bool, what it can see.
    targets: name -> (B, R, L) bool, where it should look; a row without any is not asked."""

    query: torch.Tensor
    allowed: torch.Tensor
    targets: dict[str, torch.Tensor]
    layers: dict[str, int] = field(default_factory=dict)  # name -> layer whose first head is told
    scores: dict[int, torch.Tensor] = field(default_factory=dict)  # layer -> (B, R, L), left by the attention

    def watch(self, layer: int, query: torch.Tensor, key: torch.Tensor) -> None:
        """Keeps the scores of the first head: query (B, L, d), scaled, and key (B, L, d)."""
        if layer in self.layers.values():
            asked = query.gather(1, self.query.to(query.device)[..., None].expand(-1, -1, query.shape[-1]))
            self.scores[layer] = (asked @ key.mT).float()

    def loss(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mean loss of the guides and, for each, the share of attention that lies where it should."""
        losses, seen = [], {}
        for name, target in self.targets.items():
            asked = target.any(-1)
            if not asked.any():
                continue
            scores = self.scores[self.layers[name]][asked]  # (rows asked, L)
            allowed, target = (x[asked].to(scores.device) for x in (self.allowed, target))
            share = scores.masked_fill(~target, float("-inf")).logsumexp(-1)
            share = share - scores.masked_fill(~allowed, float("-inf")).logsumexp(-1)
            losses.append(-share.mean())
            seen[f"look_{name}"] = share.exp().mean().detach()
        return torch.stack(losses).mean(), seen
