"""Packed training sequences: a clip's visual tokens, then many independent exchanges about it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from aot_tiny.film.clips import Clip
from aot_tiny.film.questions import Evidence, Question
from aot_tiny.training.attention import Layout
from aot_tiny.training.data import IGNORE, TRAIN_SEEDS, draw, owners, tracks
from aot_tiny.training.exchanges import LONG_STYLES, ROW, SHORT_STYLES, Exchange, ask, copied, pick, segment
from aot_tiny.training.guides import Guides
from aot_tiny.worlds import World
from llava.eval.jsonl import write_whole

GUIDES = {"name": 2, "evidence": 5, "option": 6}  # the layer whose first head a guide tells where to look


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


@dataclass(frozen=True)
class Density:
    """How much of their clips the batches show; what a token is worth, or where a method would keep it, is never asked.

    lengths: share of the batches by frames of a clip. shares: (share of the batches, least, most) each; such a batch
    sees a random part of the visual tokens, a share drawn evenly in [least, most]. most: visual tokens of a clip at
    most; longer clips are thinned to it.
    """

    lengths: tuple[tuple[int, float], ...]
    shares: tuple[tuple[float, float, float], ...] = ((1.0, 1.0, 1.0),)
    most: int = 2304

    def frames(self, rng: np.random.Generator) -> int:
        """Frames of a batch's clips."""
        return int(rng.choice([n for n, _ in self.lengths], p=[share for _, share in self.lengths]))

    def kept(self, rng: np.random.Generator, total: int) -> int:
        """Visual tokens that a batch sees of `total`."""
        kind = rng.choice(len(self.shares), p=[part for part, _, _ in self.shares])
        return int(rng.uniform(*self.shares[kind][1:]) * min(total, self.most))


class ClipConversations(Dataset):
    """Clips as a frozen tower sees them, each with the exchanges of a `Mix`.

    batch: samples that share a `Density`'s drawing. passes: how often a clip comes, each time with other exchanges and
    other tokens. tower: pixels (T, 3, S, S) -> features (T, N, D), to be set before the first sample.
    store: folder that keeps features between the passes, 147 KB a frame in bfloat16; without it they are made again.
    """

    def __init__(
        self, tokenizer, length: int, world: World, mix: Mix, density: Density, *, size: int, grid: int, start: int,
        batch: int = 1, passes: int = 1,
    ):  # fmt: skip
        self.tokenizer, self.length, self.world, self.mix, self.density = tokenizer, length, world, mix, density
        self.size, self.grid, self.start, self.batch = size, grid, start, batch
        self.clips = -(-length // (passes * batch)) * batch  # different ones
        self.tower: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.store: Path | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        turn, place = divmod(index, self.clips)
        seed, per_frame = TRAIN_SEEDS + self.start + place, (self.grid // 2) ** 2
        frames = self.density.frames(np.random.default_rng([self.start, place // self.batch, 5]))
        total = frames * per_frame
        kept = self.density.kept(np.random.default_rng([self.start, index // self.batch, 6]), total)
        rng = np.random.default_rng([seed, 4, turn])
        clip = self.world.sample(seed, frames=frames, **self.world.kinds)
        features, owner = self._seen(clip)
        keep = torch.from_numpy(np.sort(rng.permutation(total)[:kept]))  # (kept,) flat places
        segments = self._segments(clip, rng)
        looks = torch.stack([_evidence(s.evidence, owner) for s in segments])  # (R, T·P + T)
        cells, lines = tracks(clip, owner)
        labels = {name: values[keep] for name, values in cells.items()} | lines
        order = visual_order(keep, frames, per_frame)
        return {"features": features, "keep": keep, "segments": segments, "looks": looks[:, order], "tracks": labels}

    def _seen(self, clip: Clip) -> tuple[torch.Tensor, np.ndarray]:
        """The tower's features (T, N, D) of a clip, and the thing of every pooled token, see `owners`."""
        file = self.store / f"{clip.seed}.pt" if self.store else None
        if file is not None and file.exists():
            known = torch.load(file, weights_only=True)
            return known["features"], known["owner"].numpy()
        pixels, cover, _ = draw(self.world, clip, self.size, self.grid)
        owner = owners(cover, self.grid // 2)
        with torch.no_grad():
            features = self.tower(pixels)
        if file is not None:
            whole = io.BytesIO()
            torch.save({"features": features, "owner": torch.from_numpy(owner)}, whole)
            write_whole(file, whole.getvalue())
        return features, owner

    def _segments(self, clip: Clip, rng: np.random.Generator) -> list:
        mix, qa = self.mix, self.world.questions
        asked = pick(qa.make_questions(clip), rng, mix.open + mix.short + mix.long)
        styles = [()] * mix.open + [SHORT_STYLES] * mix.short + [LONG_STYLES] * mix.long
        made = [segment(self.tokenizer, ask(q, rng, style)) for q, style in zip(asked, styles, strict=True)]
        text = [segment(self.tokenizer, copied(self._other(rng), rng, bare=1.0), video=False) for _ in range(mix.text)]
        last = segment(self.tokenizer, Exchange(str(rng.choice(qa.CAPTION_PROMPTS)), qa.caption(clip)))
        if rng.random() >= mix.caption or len(last.tokens) > ROW["long"]:
            last = segment(self.tokenizer, copied(self._other(rng), rng), video=False)
        behind = mix.open + mix.short
        return [*made[:behind], *text, *made[behind:], last]

    def _other(self, rng: np.random.Generator) -> list[Question]:
        """Questions about a training clip that no sequence shows."""
        clip = self.world.sample(TRAIN_SEEDS + int(rng.integers(1_000_000)) * 1000 + 999, frames=16)
        return self.world.questions.make_questions(clip)


def visual_order(keep: torch.Tensor, frames: int, per_frame: int) -> torch.Tensor:
    """(..., kept + T) what the head holds, in order: kept places t·P + p of every frame, then its newline, T·P + t.

    keep: (..., kept) flat places.
    """
    newline = torch.arange(frames, device=keep.device).expand(*keep.shape[:-1], -1)
    key = torch.cat([keep, newline * per_frame + per_frame - 0.5], -1)  # a newline stands behind its frame's last place
    return torch.cat([keep, frames * per_frame + newline], -1).gather(-1, key.argsort(-1))


def _evidence(evidence: Evidence | None, owner: np.ndarray) -> torch.Tensor:
    """(T·P + T,) bool, what shows an answer: cells of a thing, or the newlines behind whole frames."""
    frames = np.zeros(len(owner), bool)
    if evidence is not None:
        frames[list(evidence.frames)] = True
    cells, lines = np.zeros(owner.shape, bool), np.zeros(len(owner), bool)
    if evidence is not None and evidence.thing is not None:
        cells = (owner == evidence.thing) & frames[:, None, None]
    else:
        lines = frames
    return torch.from_numpy(np.concatenate([cells.ravel(), lines]))


def collate(samples: list[dict], *, prefix: list[int], rows, pad: int, balance: float = 0.0) -> dict:
    """A batch of sequences [prefix, visual tokens, rows].

    Every row holds one exchange, sees the prefix, the visual tokens (unless it is answered from text) and itself,
    and is numbered as if it stood alone behind them, so one pass over the clip serves many exchanges. rows: (count,
    most tokens) of the groups, filled in order; in a batch they are as long as the longest exchange among them.
    balance: answers of n tokens weigh n^(1 - balance).
    """
    head = len(prefix) + samples[0]["looks"].shape[1]
    rows = _rows_in_use([[len(s.tokens) for s in sample["segments"]] for sample in samples], rows)
    sizes = [size for count, size in rows for _ in range(count)]
    starts = list(accumulate(sizes, initial=head))[:-1]
    blind = torch.tensor([[not s.video for s in sample["segments"]] for sample in samples])
    layout = Layout(len(prefix), head, tuple(rows), blind)
    shape = (len(samples), layout.length)
    ids, labels, weight = torch.full(shape, pad), torch.full(shape, IGNORE), torch.zeros(shape)
    ids[:, : len(prefix)] = torch.tensor(prefix)
    visible = torch.arange(layout.length) < torch.where(blind, len(prefix), head)[..., None]  # (B, R, L)
    query, targets = torch.zeros(blind.shape, dtype=torch.long), {g: torch.zeros_like(visible) for g in GUIDES}
    behind = torch.cat([head + torch.arange(size) for size in sizes]).float()
    position = torch.cat([torch.arange(head).float(), behind]).repeat(len(samples), 1)
    for b, sample in enumerate(samples):
        for r, (part, at) in enumerate(zip(sample["segments"], starts, strict=True)):
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
    batch |= {name: torch.stack([s[name] for s in samples]) for name in ("features", "keep")}
    batch |= {k: torch.stack([s["tracks"][k] for s in samples]) for k in samples[0]["tracks"]}
    return batch


def _rows_in_use(lengths: list[list[int]], rows) -> list[tuple[int, int]]:
    """(count, length) of the groups of rows in a batch. lengths: tokens of the exchanges of each clip, in order."""
    used, first = [], 0
    for count, most in rows:
        longest = max((n for clip in lengths for n in clip[first : first + count]), default=0)
        if longest > most:
            raise ValueError(f"An exchange of {longest} tokens does not fit its row of {most}.")
        used.append((count, longest))
        first += count
    return used
