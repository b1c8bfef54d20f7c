"""Later stages of aot-tiny: the language model learns to read the visual tokens, and to answer from them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from aot_tiny.training import attention
from aot_tiny.training.attention import Layout
from aot_tiny.training.data import FRAME_CLASSES, FRAME_FLAGS, IGNORE, TOKEN_CLASSES
from aot_tiny.training.packing import visual_order


class Tracker(nn.Module):
    """Linear heads on hidden states of the language model: what each visual token and each frame's newline knows.

    They supervise hundreds of tokens a clip where answers supervise tens, and are thrown away afterwards.
    """

    def __init__(self, width: int):
        super().__init__()
        self.cell = nn.ModuleDict({k: nn.Linear(width, n) for k, n in TOKEN_CLASSES.items()})
        self.flags = nn.ModuleDict({k: nn.Linear(width, n) for k, n in FRAME_FLAGS.items()})
        self.frame = nn.ModuleDict({k: nn.Linear(width, n * m) for k, (n, m) in FRAME_CLASSES.items()})

    def forward(self, cells: torch.Tensor, lines: torch.Tensor, batch: dict) -> tuple[torch.Tensor, dict]:
        """cells (B, visual tokens, D), lines (B, T, D) the frames' newlines; the mean loss and the accuracies."""
        losses, seen = [], {}
        for name, head in self.cell.items():
            target = batch[name]
            known = target != IGNORE
            if not known.any():
                continue
            logits = head(cells[known])
            losses.append(F.cross_entropy(logits, target[known]))
            seen[name] = (logits.argmax(-1) == target[known]).float().mean().detach()
        for name, head in self.flags.items():
            rare = torch.tensor(6.0 if name == "events" else 1.0, device=lines.device)  # few events in a clip
            loss = F.binary_cross_entropy_with_logits(head(lines), batch[name], pos_weight=rare)
            losses.append(loss * FRAME_FLAGS[name] / 2)
            seen[name] = loss.detach()
        for name, head in self.frame.items():
            target = batch[name]  # (B, T, n) of m classes
            logits = head(lines).unflatten(-1, FRAME_CLASSES[name])
            losses.append(F.cross_entropy(logits.flatten(0, 2), target.flatten()))
            seen[name] = (logits.argmax(-1) == target).float().mean().detach()
        return torch.stack(losses).mean(), seen


class VideoObjective(nn.Module):
    """Language-model loss on packed exchanges (see `packing`) plus the tracker's.

    model: a LlavaQwenForCausalLM with a newline behind every frame; frozen parts stay as they are.
    letters: the tokens A to D, whose accuracy is logged apart, the article of captions among them.
    layer: the hidden states that the tracker reads, 0 being the embeddings. guiding: weight of the guided attention.
    stretch: share of the clips whose visual positions are drawn with random gaps, so that what is learnt
    hangs on content and newlines rather than on exact distances (randomised positions).
    """

    def __init__(
        self, model: nn.Module, letters: list[int], *, layer: int, tracking: float = 1.0, guiding: float = 0.0,
        stretch: float = 0.25,
    ):  # fmt: skip
        super().__init__()
        self.letters = torch.tensor(letters)
        self.model, self.layer, self.stretch = model, layer, stretch
        self.tracking, self.guiding = tracking, guiding
        self.cells = model.get_vision_tower().num_patches // 4  # pooled tokens a frame
        self.tracker = Tracker(model.config.hidden_size)
        model.config._attn_implementation = attention.NAME

    def forward(self, ids, labels, weight, position, layout: Layout, guides, features, keep, **tracks):
        lm, start, end = self.model, layout.prefix, layout.head
        embeds = lm.get_input_embeddings()(ids)
        visual, line = self._visual(features, keep)  # (B, head - prefix, D), bool
        embeds = torch.cat([embeds[:, :start], visual.to(embeds), embeds[:, end:]], 1)
        if self.training and self.stretch:
            position = self._stretched(position, start, end, most=features.shape[1] * self.cells / keep.shape[1])
        biases = layout.biases(embeds.device, lm.config.num_attention_heads)
        out = lm.model(
            inputs_embeds=embeds, attention_mask={"full_attention": None}, position_ids=position, layout=layout,
            row_biases=biases, guides=guides, output_hidden_states=True, use_cache=False,
        )  # fmt: skip
        # cross-entropy of the answers' tokens by their weights, and the share of them that are right
        labels, weight = labels[:, 1:], weight[:, 1:]
        said = labels != IGNORE
        logits, target, weight = lm.lm_head(out.last_hidden_state[:, :-1][said]).float(), labels[said], weight[said]
        loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
        right, letter = logits.argmax(-1) == target, torch.isin(target, self.letters.to(target))
        seen = {"words": loss.detach(), "token": right.float().mean().detach()}
        seen["letter"] = right[letter].float().mean().detach()
        if self.tracking:
            hidden = out.hidden_states[self.layer][:, start:end].float()
            cells, lines = (hidden[part].unflatten(0, (len(ids), -1)) for part in (~line, line))
            extra, known = self.tracker(cells, lines, tracks)
            loss, seen = loss + self.tracking * extra, seen | known
        if self.guiding:
            extra, known = guides.loss()
            loss, seen = loss + self.guiding * extra, seen | known
        return {"loss": loss, **seen}

    def _visual(self, features: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tower's features (B, T, N, D) to what the language model reads: the kept pooled tokens, a newline behind
        each frame.

        keep: (B, K) flat places t·P + p. Returns (B, K + T, D) and which of these are newlines, (B, K + T) bool.
        """
        projector = self.model.get_model().mm_projector
        projected = projector(features.flatten(0, 1).to(next(projector.parameters()).dtype))  # (B·T, N, D)
        side, frames = int(features.shape[2] ** 0.5), features.shape[1]
        grid = projected.transpose(1, 2).unflatten(2, (side, side))
        cells = F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)  # equals bilinear pooling of an even grid
        per_frame = cells.shape[1]
        cells = cells.unflatten(0, features.shape[:2]).flatten(1, 2)  # (B, T·P, D)
        newline = self.model.model.image_newline.to(cells).expand(len(cells), frames, -1)
        both = torch.cat([cells, newline], 1)
        order = visual_order(keep, frames, per_frame)
        return both.gather(1, order.unsqueeze(-1).expand(-1, -1, both.shape[-1])), order >= frames * per_frame

    def _stretched(self, position: torch.Tensor, start: int, end: int, *, most: float) -> torch.Tensor:
        """Positions with random gaps between the visual ones for a share of the clips; what follows moves along.

        most: the largest mean gap; pooled tokens of the clip over kept ones, as if nothing had been dropped.
        """
        batch, count = len(position), end - start
        scale = (most * torch.rand(batch, 1, device=position.device)).clamp_min(0.08)
        gaps = 2 * torch.rand(batch, count, device=position.device) * scale
        plain = torch.rand(batch, 1, device=position.device) >= self.stretch
        gaps = torch.where(plain, torch.ones_like(gaps), gaps)
        after = torch.cumsum(gaps, 1)
        visual = start + after - gaps
        behind = position[:, end:] - count + after[:, -1:]
        return torch.cat([position[:, :start], visual, behind], 1)
