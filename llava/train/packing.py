"""Packed training sequences: a clip's visual tokens, then many independent exchanges about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from llava.eval.world import clips
from llava.eval.world import questions as qa
from llava.eval.world.clips import FRAMES, TIMES
from llava.train.clip_data import IGNORE, TRAIN_SEEDS, draw, owners, tracks
from llava.train.exchanges import LONG_STYLES, ROW, SHORT_STYLES, Exchange, ask, copied, pick, segment
from llava.train.guides import Guides
from llava.train.packed_attention import Layout

GUIDES = {"name": 2, "evidence": 5, "option": 6}  # the layer whose first head a guide tells where to look
SIDES = (6, 4, 3)  # token grids of a frame: 12x12 tower tokens pooled by 2, 3 or 4


@dataclass(frozen=True)
class Mix:
    """What the rows of a clip's sequence hold.

    open, short, long: questions asked openly, and as a choice in short and in long wording. text: options behind their
    answer, which do not see the video. One more row is a caption (with this probability) or a question behind its
    answer, which does not see the video either.
    """

    open: int = 6
    short: int = 3
    long: int = 1
    text: int = 1
    caption: float = 0.5

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        short = (self.short + self.text, ROW["short"])
        return (self.open, ROW["open"]), short, (self.long + 1, ROW["long"])


class ClipConversations(Dataset):
    """Clips, each with the exchanges of a `Mix`.

    coarse: share of the batches whose frames are pooled at several strides, drawn frame by frame, so that a frame
    may have 36, 16 or 9 tokens; the others have 36 in every frame, as in use. batch: samples that share a drawing.
    """

    def __init__(
        self, tokenizer, length: int, mix: Mix, *, size: int, grid: int, start: int, batch: int = 1, coarse: float = 0.0
    ):
        self.tokenizer, self.length, self.mix = tokenizer, length, mix
        self.size, self.grid, self.start, self.batch, self.coarse = size, grid, start, batch, coarse

    def __len__(self) -> int:
        return self.length

    def sides(self, index: int) -> tuple[int, ...]:
        """The token grid's side of every frame of a sample."""
        rng = np.random.default_rng([self.start, index // self.batch, 5])
        if rng.random() >= self.coarse:
            return (SIDES[0],) * FRAMES
        return tuple(int(s) for s in rng.choice(SIDES, FRAMES, p=rng.dirichlet(np.ones(len(SIDES)))))

    def __getitem__(self, index: int) -> dict:
        seed = TRAIN_SEEDS + self.start + index
        rng = np.random.default_rng([seed, 4])
        pixels, cover, clip = draw(seed, TIMES, self.size, self.grid)
        mix, sides = self.mix, self.sides(index)
        asked = pick(qa.make_questions(clip), rng, mix.open + mix.short + mix.long)
        styles = [()] * mix.open + [SHORT_STYLES] * mix.short + [LONG_STYLES] * mix.long
        made = [segment(self.tokenizer, ask(q, rng, style)) for q, style in zip(asked, styles, strict=True)]
        text = [segment(self.tokenizer, copied(_other(rng), rng, bare=1.0), video=False) for _ in range(mix.text)]
        if rng.random() < mix.caption:
            last = segment(self.tokenizer, Exchange(str(rng.choice(qa.CAPTION_PROMPTS)), qa.caption(clip)))
        else:
            last = segment(self.tokenizer, copied(_other(rng), rng), video=False)
        behind = mix.open + mix.short
        segments = [*made[:behind], *text, *made[behind:], last]
        owner = [owners(c, side) for c, side in zip(cover, sides, strict=True)]
        looks = [_evidence(s.evidence, owner) for s in segments]
        return {"pixels": pixels, "sides": sides, "segments": segments, "looks": looks, "tracks": tracks(clip, owner)}


def _evidence(evidence: qa.Evidence | None, owner: list[np.ndarray]) -> torch.Tensor:
    """The visual tokens (bool) that show an answer: cells of a thing, or the newlines behind whole frames."""
    frames = () if evidence is None else evidence.frames
    parts = []
    for i, cells in enumerate(owner):
        thing = evidence is not None and evidence.thing is not None
        parts.append(cells.ravel() == evidence.thing if thing and i in frames else np.zeros(cells.size, bool))
        parts.append(np.array([not thing and i in frames]))
    return torch.from_numpy(np.concatenate(parts))


def _other(rng: np.random.Generator) -> clips.Clip:
    """A training clip that no sequence shows."""
    return clips.sample_clip(TRAIN_SEEDS + int(rng.integers(1_000_000)) * 1000 + 999)


def collate(samples: list[dict], *, prefix: list[int], rows, pad: int, balance: float = 0.0) -> dict:
    """A batch of sequences [prefix, visual tokens, rows].

    Every row holds one exchange, sees the prefix, the visual tokens (unless it is answered from text) and itself,
    and is numbered as if it stood alone behind them, so one pass over the clip serves many exchanges. rows: (count,
    length) of the groups, filled in order. balance: answers of n tokens weigh n^(1 - balance).
    """
    sides = samples[0]["sides"]
    head = len(prefix) + sum(side * side + 1 for side in sides)
    starts = [(at, size) for at, size in _rows(head, rows)]
    blind = torch.tensor([[not s.video for s in sample["segments"]] for sample in samples])
    layout = Layout(len(prefix), head, tuple(rows), blind)
    shape = (len(samples), layout.length)
    ids, labels, weight = torch.full(shape, pad), torch.full(shape, IGNORE), torch.zeros(shape)
    ids[:, : len(prefix)] = torch.tensor(prefix)
    visible = torch.arange(layout.length) < torch.where(blind, len(prefix), head)[..., None]  # (B, R, L)
    query, targets = torch.zeros(blind.shape, dtype=torch.long), {g: torch.zeros_like(visible) for g in GUIDES}
    behind = torch.cat([head + torch.arange(size) for _, size in starts]).float()
    position = torch.cat([torch.arange(head).float(), behind]).repeat(len(samples), 1)
    for b, sample in enumerate(samples):
        for r, (part, (at, size)) in enumerate(zip(sample["segments"], starts, strict=True)):
            if len(part.tokens) > size:
                raise ValueError(f"An exchange of {len(part.tokens)} tokens does not fit its row of {size}.")
            end, learnt = at + len(part.tokens), torch.tensor(part.learnt)
            ids[b, at:end] = torch.tensor(part.tokens)
            labels[b, at:end][learnt] = ids[b, at:end][learnt]
            weight[b, at:end] = len(learnt[learnt]) ** -balance
            query[b, r] = at + part.query
            visible[b, r, at : at + part.query + 1] = True
            for guide, places in part.look.items():
                targets[guide][b, r, [at + place for place in places]] = True
            if part.evidence is not None:
                targets["evidence"][b, r, len(prefix) : head] = sample["looks"][r]
    batch = {"ids": ids, "labels": labels, "weight": weight, "position": position, "layout": layout}
    batch["guides"] = Guides(query, visible, targets, GUIDES)
    batch |= {"pixels": torch.stack([s["pixels"] for s in samples]), "sides": sides}
    batch |= {k: torch.stack([s["tracks"][k] for s in samples]) for k in samples[0]["tracks"]}
    return batch


def _rows(at: int, rows):
    """(start, length) of every row."""
    for count, size in rows:
        for _ in range(count):
            yield at, size
            at += size
