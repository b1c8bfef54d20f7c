"""Training data from procedural clips: frames with dense labels, and packed questions about them."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from llava.eval import clips
from llava.eval import questions as qa
from llava.eval.clips import COLORS, NEEDLE, SHAPES, TIMES

TRAIN_SEEDS = 10_000_000  # training clips start here; held-out clips have smaller seeds
COLOR_NAMES, SHAPE_NAMES = tuple(COLORS), (*SHAPES, NEEDLE)
IGNORE = -100


def jpeg(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The frames (T, H, W, 3) after lossy coding, as a stand-in for the video codec."""
    from PIL import Image

    out = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "jpeg", quality=int(rng.integers(75, 96)))
        out.append(np.asarray(Image.open(buffer)))
    return np.stack(out)


def draw(seed: int, times, size: int, grid: int):
    """A training clip: pixels (T, 3, size, size) in [-1, 1], cell labels (T, grid, grid), and the clip.

    Labels are the index of the thing that covers a cell most: -1 for none, IGNORE where it barely touches.
    """
    clip = clips.sample_clip(seed)
    rng = np.random.default_rng([seed, 2])
    frames, cover = clips.render_with_coverage(clip, times, size, grid)
    if rng.random() < 0.5:
        frames = jpeg(frames, rng)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    best, most = cover.argmax(1), cover.max(1)
    owner = np.where(most > 0.15, best, np.where(most > 0.02, IGNORE, -1))
    return pixels, owner, clip


class FrameLabels(Dataset):
    """Single frames with a label for every patch: what the tower learns first."""

    def __init__(self, length: int, *, size: int = 96, grid: int = 12, frames: int = 8, start: int = 0):
        self.length, self.size, self.grid, self.frames, self.start = length, size, grid, frames, start

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        seed = TRAIN_SEEDS + self.start + index
        times = np.sort(np.random.default_rng([seed, 3]).choice(TIMES, self.frames, replace=False))
        pixels, owner, clip = draw(seed, times, self.size, self.grid)
        color, shape = np.full_like(owner, IGNORE), np.full_like(owner, IGNORE)
        color[owner == -1] = shape[owner == -1] = 0
        offset = np.zeros((*owner.shape, 2), np.float32)  # from the patch's centre to the thing's, in patches
        ys, xs = np.mgrid[0 : self.grid, 0 : self.grid] + 0.5
        for k, thing in enumerate(clip.all_things):
            for i, t in enumerate(times):
                mine = owner[i] == k
                color[i][mine] = 1 + COLOR_NAMES.index(thing.color_at(t))
                shape[i][mine] = 1 + SHAPE_NAMES.index(thing.shape)
                x, y = (c * self.grid for c in thing.center(t))
                offset[i][mine] = np.stack([x - xs, y - ys], -1)[mine]
        labels = {"color": color, "shape": shape, "offset": offset}
        return {"pixels": pixels} | {k: torch.from_numpy(v) for k, v in labels.items()}


@dataclass
class Mix:
    """How many segments of each kind a clip's sequence carries; `text` ones are answered from a caption."""

    caption: float = 1.0
    open: int = 6
    choice: int = 0
    text: int = 1


class ClipConversations(Dataset):
    """Clips, each with several independent exchanges that share the clip's visual tokens (see `collate`)."""

    def __init__(self, tokenizer, length: int, mix: Mix, *, size: int = 96, grid: int = 12, start: int = 0):
        self.tokenizer, self.length, self.mix = tokenizer, length, mix
        self.size, self.grid, self.start = size, grid, start

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        seed = TRAIN_SEEDS + self.start + index
        rng = np.random.default_rng([seed, 4])
        pixels, owner, clip = draw(seed, TIMES, self.size, self.grid // 2)
        segments = []
        if rng.random() < self.mix.caption:
            segments.append(segment(self.tokenizer, str(rng.choice(qa.CAPTION_PROMPTS)), qa.caption(clip)))
        asked = pick(qa.make_questions(clip), rng, self.mix.open + self.mix.choice)
        for k, question in enumerate(asked):
            segments.append(segment(self.tokenizer, *_exchange(question, rng, choice=k >= self.mix.open)))
        for _ in range(self.mix.text):
            other = clips.sample_clip(TRAIN_SEEDS + int(rng.integers(1_000_000)) * 1000 + 999)
            segments.append(segment(self.tokenizer, *read_exchange(other, rng), video=False))
        return {"pixels": pixels, "segments": segments, "tracks": tracks(clip, owner)}


@dataclass(frozen=True)
class Segment:
    """One exchange as the qwen_1_5 template puts it behind <image>.

    tokens: prompt and answer. asked: length of the prompt. video: whether it may look at the video.
    """

    tokens: list[int]
    asked: int
    video: bool


def segment(tokenizer, prompt: str, answer: str, *, video: bool = True) -> Segment:
    """An exchange as tokens."""
    asked = tokenizer(f"\n{prompt}<|im_end|>\n<|im_start|>assistant\n").input_ids
    return Segment(asked + tokenizer(f"{answer}<|im_end|>").input_ids, len(asked), video)


READABLE = ("motion", "state", "attribute")  # families that a caption settles


def read_exchange(clip: clips.Clip, rng: np.random.Generator) -> tuple[str, str]:
    """A question behind a caption that answers it."""
    (question,) = pick([q for q in qa.make_questions(clip) if q.family in READABLE], rng, 1)
    prompt, answer = _exchange(question, rng, choice=rng.random() < 0.8)
    return f"{qa.caption(clip)}\n{prompt}", answer


def _exchange(question: qa.Question, rng: np.random.Generator, *, choice: bool) -> tuple[str, str]:
    if not choice:
        return question.open_prompt(), question.answer
    letter = str(rng.choice(list(qa.LETTERS)))
    style = str(rng.choice(list(qa.CHOICE_PROMPTS)))
    return question.choice_prompt(question.options(rng, letter), style), letter


def pick(questions: list[qa.Question], rng: np.random.Generator, count: int) -> list[qa.Question]:
    """`count` different questions (or all), families equally likely and the commonest answers held back."""
    rare = {"not at all": 0.4, "it stays": 0.4, "1": 0.5}
    sizes = Counter(q.family for q in questions)
    weight = np.array([rare.get(q.answer, 1.0) / sizes[q.family] for q in questions])
    chosen = rng.choice(len(questions), min(count, len(questions)), replace=False, p=weight / weight.sum())
    return [questions[i] for i in chosen]


def tracks(clip: clips.Clip, owner: np.ndarray) -> dict[str, torch.Tensor]:
    """What a reader of the tokens so far can know, for every token (T, grid, grid) and every frame (T,).

    Tokens of a thing: its motion, the corner, frame and colour it began with. Frames: the colours in sight, the
    colours seen so far, how many things so far, and which colour's thing came, went or changed just now.
    """
    shape, colors, count = owner.shape, len(COLOR_NAMES), len(TIMES)
    cell = {k: np.full(shape, IGNORE) for k in ("motion", "corner", "begin", "first_color", "color", "shape")}
    sight, seen = np.zeros((count, colors), np.float32), np.zeros((count, colors), np.float32)
    events = np.zeros((count, 3 * colors), np.float32)
    things = np.zeros(count, np.int64)
    for k, thing in enumerate(clip.all_things):
        begin = int(np.searchsorted(TIMES, thing.on))
        where = qa.corner(*thing.center(TIMES[begin]))
        first = COLOR_NAMES.index(thing.color)
        things[begin:] += 1
        if begin:
            events[begin, first] = 1
        for i, t in enumerate(TIMES):
            if not thing.visible(t):
                if i > begin and thing.visible(TIMES[i - 1]):
                    events[i, colors + COLOR_NAMES.index(thing.color_at(TIMES[i - 1]))] = 1
                continue
            now = COLOR_NAMES.index(thing.color_at(t))
            if i > begin and now != first and thing.color_at(TIMES[i - 1]) == thing.color:
                events[i, 2 * colors + now] = 1
            sight[i, now] = 1
            seen[i:, now] = 1
            mine = owner[i] == k
            cell["begin"][i][mine], cell["first_color"][i][mine] = begin, first
            cell["color"][i][mine], cell["shape"][i][mine] = now, SHAPE_NAMES.index(thing.shape)
            if where:
                cell["corner"][i][mine] = qa.CORNERS.index(where)
            if i >= begin + 2:
                cell["motion"][i][mine] = list(clips.MOTIONS).index(thing.motion)
    frame = {"sight": sight, "seen": seen, "events": events, "things": things}
    return {k: torch.from_numpy(v) for k, v in (cell | frame).items()}


def collate(
    samples: list[dict], *, prefix: list[int], visual: int, pad: int, balance: float = 0.0
) -> dict[str, torch.Tensor]:
    """A batch of sequences [prefix, visual tokens, segments …].

    Every segment sees the prefix, the visual tokens (unless it is answered from text) and itself, and is numbered
    as if it stood alone behind them, so one pass over the clip serves many exchanges. The mask has the rows of the
    segments' tokens only, see `packed_attention`. balance: answers of n tokens weigh n^(1 - balance).
    """
    head = len(prefix) + visual
    longest = max(sum(len(s.tokens) for s in sample["segments"]) for sample in samples)
    length = head + longest
    shape = (len(samples), length)
    ids, labels, weight = torch.full(shape, pad), torch.full(shape, IGNORE), torch.zeros(shape)
    segment, position = torch.full(shape, -1), torch.zeros(shape)
    reads = torch.ones(shape, dtype=torch.bool)  # whether the query may look at visual tokens
    ids[:, : len(prefix)] = torch.tensor(prefix)
    segment[:, :head] = 0
    position[:, :head] = torch.arange(head)
    for b, sample in enumerate(samples):
        at = head
        for k, part in enumerate(sample["segments"], 1):
            tokens, asked = part.tokens, part.asked
            end = at + len(tokens)
            ids[b, at:end] = torch.tensor(tokens)
            labels[b, at + asked : end] = ids[b, at + asked : end]
            weight[b, at + asked : end] = (len(tokens) - asked) ** -balance
            segment[b, at:end], reads[b, at:end] = k, part.video
            position[b, at:end] = torch.arange(head, head + len(tokens))
            at = end
    order = torch.arange(length)
    mine = segment[:, head:, None]  # queries are the segments' tokens: masks (B, L - head, L)
    same = (segment[:, None, :] == 0) | (segment[:, None, :] == mine)
    looks = reads[:, head:, None] | (order < len(prefix)) | (order >= head)
    mask = (order <= order[head:, None]) & same & looks
    batch = {"ids": ids, "labels": labels, "weight": weight, "mask": mask[:, None]}
    batch["position"] = position
    batch["pixels"] = torch.stack([s["pixels"] for s in samples])
    batch |= {k: torch.stack([s["tracks"][k] for s in samples]) for k in samples[0]["tracks"]}
    return batch

