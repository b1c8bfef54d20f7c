"""Training data from drawn clips: pixels, and dense labels for patches and for visual tokens."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from aot_tiny.film import questions as qa
from aot_tiny.film.clips import COLORS, LENGTHS, NEEDLE, SHAPES, Clip, Thing, sample_clip, sample_signs
from aot_tiny.worlds import WORLDS, World

TRAIN_SEEDS = 10_000_000  # training clips start here; held-out clips have smaller seeds
COLOR_NAMES, SHAPE_NAMES = tuple(COLORS), (*SHAPES, NEEDLE, "sign")
IGNORE = -100
COLOR_COUNT, MOST_THINGS, MOST_FRAMES = len(COLOR_NAMES), 9, max(LENGTHS)
# what the newline behind a frame is asked: yes or no each, and classes as (questions, classes)
FRAME_FLAGS = {"sight": COLOR_COUNT, "seen": COLOR_COUNT, "events": 5 * COLOR_COUNT + 3}
FRAME_CLASSES = {
    "things": (1, MOST_THINGS), "inside": (1, MOST_THINGS), "shapes": (len(SHAPES), MOST_THINGS),
    "news": (3, COLOR_COUNT + 1), "index": (1, MOST_FRAMES), "code": (2, 11),
}  # fmt: skip
TOKEN_CLASSES = {
    "motion": len(qa.MOTIONS), "corner": len(qa.CORNERS), "begin": MOST_FRAMES, "first_color": COLOR_COUNT,
    "color": COLOR_COUNT, "shape": len(SHAPE_NAMES), "place": len(qa.CORNERS), "digit": 10,
}  # fmt: skip


def draw(world: World, clip: Clip, size: int, grid: int, *, some: int | None = None):
    """A clip to train on: pixels (T, 3, size, size) in [-1, 1], how much of each cell each drawn thing covers
    (T, things, grid, grid) in 0..1, and the instants (T,).

    some: only so many of its frames, drawn at random.
    """
    rng, times = np.random.default_rng([clip.seed, 2]), clip.times
    if some is not None:
        times = np.sort(rng.choice(times, min(some, len(times)), replace=False))
    pictures, cover = world.draw(clip, times, size, grid)
    if rng.random() < 0.5:  # lossy coding, as a stand-in for the video codec
        coded = []
        for picture in pictures:
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "jpeg", quality=int(rng.integers(75, 96)))
            coded.append(np.asarray(Image.open(buffer)))
        pictures = np.stack(coded)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, cover, times


def owners(cover: np.ndarray, side: int) -> np.ndarray:
    """The thing that covers most of each cell of a side x side grid: (..., side, side) from (..., things, g, g).

    -1 for none, IGNORE where it barely touches.
    """
    *lead, grid, _ = cover.shape
    cell = grid // side
    cover = cover.reshape(*lead, side, cell, side, cell).mean((-3, -1))
    best, most = cover.argmax(-3), cover.max(-3)
    return np.where(most > 0.15, best, np.where(most > 0.02, IGNORE, -1))


class FrameLabels(Dataset):
    """Single frames with a label for every patch, every other sample of signs alone: what the tower learns first."""

    def __init__(self, length: int, *, size: int, grid: int, frames: int = 4, start: int = 0):
        self.length, self.size, self.grid, self.frames, self.start = length, size, grid, frames, start

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        seed = TRAIN_SEEDS + self.start + index
        clip = sample_signs(seed) if index % 2 else sample_clip(seed)
        pixels, cover, times = draw(WORLDS["film"], clip, self.size, self.grid, some=self.frames)
        owner = owners(cover, self.grid)
        labels = {name: np.full_like(owner, IGNORE) for name in ("color", "shape", "digit")}
        for values in labels.values():
            values[owner == -1] = 0
        offset = np.zeros((*owner.shape, 2), np.float32)  # from the patch's centre to the thing's, in patches
        ys, xs = np.mgrid[0 : self.grid, 0 : self.grid] + 0.5
        for k, thing in enumerate(clip.drawn):
            path, _ = clip.path(thing, times)
            for i, t in enumerate(times):
                mine = owner[i] == k
                x, y = path[:, i] * self.grid
                labels["color"][i][mine] = 1 + COLOR_NAMES.index(thing.color_at(t))
                labels["shape"][i][mine] = 1 + SHAPE_NAMES.index(thing.shape)
                if thing.code:
                    labels["digit"][i][mine] = np.where(xs < x, int(thing.code[0]), int(thing.code[1]))[mine] + 1
                offset[i][mine] = np.stack([x - xs, y - ys], -1)[mine]
        return {"pixels": pixels, "offset": torch.from_numpy(offset)} | {
            k: torch.from_numpy(v) for k, v in labels.items()
        }


def tracks(clip: Clip, owner: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What a reader of the tokens so far can know: labels of every token and of every frame.

    owner: (T, side, side) the thing of every cell. Labels of tokens come as (T·side²,), in frame and raster order.
    Tokens of a thing: how it has moved so far, the corner, frame and colour it began with, and its colour, shape and
    corner now; of a sign the digit on their side. Frames: the colours in sight and seen so far; just now: which colour
    came, went, was turned to, which things, by the colour they began with, went or changed, a new scene, a star, a
    sign; how many things so far, in sight, and of each shape so far; the colours of the first and the latest to come
    and of the first to go; the frame's number; the code of the sign so far.
    """
    times, count = clip.times, clip.frames
    cell = {name: np.full(owner.shape, IGNORE) for name in TOKEN_CLASSES}
    flags = {name: np.zeros((count, n), np.float32) for name, n in FRAME_FLAGS.items()}
    frame = {name: np.zeros((count, n), np.int64) for name, (n, _) in FRAME_CLASSES.items()}
    frame["index"][:, 0] = np.arange(count)
    frame["news"][:] = COLOR_COUNT  # none yet
    frame["code"][:] = 10
    for cut in clip.cuts[1:]:
        flags["events"][qa.shown(clip, cut), -2] = 1
    for k, thing in sorted(enumerate(clip.all_things), key=lambda pair: pair[1].on):
        _track_thing(clip, thing, owner == k, cell, flags, frame)
    if clip.sign:
        seen = qa.visible_frames(clip, clip.sign)
        flags["events"][seen[0], -1] = 1
        frame["code"][seen[0] :] = [int(d) for d in clip.sign.code]
        mine = owner == len(clip.all_things)
        cell["shape"][mine] = SHAPE_NAMES.index("sign")
        for digit, side in zip(clip.sign.code, _halves(clip, owner.shape[-1]), strict=True):
            cell["digit"][mine & side[:, None]] = int(digit)
    gone = [(t.off, COLOR_NAMES.index(t.color_at(t.off - 0.1))) for t in clip.all_things if t.off < times[-1]]
    for off, color in sorted(gone)[:1]:
        frame["news"][qa.shown(clip, off) :, 2] = color
    tensors = [{k: torch.from_numpy(v) for k, v in part.items()} for part in (cell, flags | frame)]
    return {k: v.flatten() for k, v in tensors[0].items()}, tensors[1]


def _halves(clip: Clip, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns (T, side) that lie left and right of the sign's middle; the one that it halves is in neither."""
    middle = clip.path(clip.sign, clip.times)[0][0][:, None] * side
    column = np.arange(side) + 0.5
    return column < middle - 0.3, column > middle + 0.3


def _track_thing(clip: Clip, thing: Thing, mine: np.ndarray, cell: dict, flags: dict, frame: dict) -> None:
    """Writes the labels of one thing. mine: (T, side, side) bool."""
    times, colors = clip.times, COLOR_COUNT
    sight, seen, events = flags["sight"], flags["seen"], flags["events"]
    path, _ = clip.path(thing, times)
    begin = int(np.searchsorted(times, thing.on))
    first = COLOR_NAMES.index(thing.color)
    where = qa.corner(*path[:, begin])
    frame["things"][begin:] += 1
    if thing.shape == NEEDLE:
        events[begin, -3] = 1
    else:
        frame["shapes"][begin:, SHAPES.index(thing.shape)] += 1
    if begin:
        events[begin, first] = 1
        news = frame["news"][begin:]
        news[:, 0] = np.where(news[:, 0] == colors, first, news[:, 0])
        news[:, 1] = first
    for i, t in enumerate(times):
        if not thing.visible(t):
            if i > begin and thing.visible(times[i - 1]):
                events[i, colors + COLOR_NAMES.index(thing.color_at(times[i - 1]))] = 1
                events[i, 3 * colors + first] = 1
            continue
        frame["inside"][i] += 1
        now = COLOR_NAMES.index(thing.color_at(t))
        if i > begin and now != first and thing.color_at(times[i - 1]) == thing.color:
            events[i, 2 * colors + now] = events[i, 4 * colors + first] = 1
        sight[i, now] = 1
        seen[i:, now] = 1
        labels = {"begin": begin, "first_color": first, "color": now, "shape": SHAPE_NAMES.index(thing.shape)}
        if here := qa.corner(*path[:, i]):
            labels["place"] = qa.CORNERS.index(here)
        if where:
            labels["corner"] = qa.CORNERS.index(where)
        if i >= begin + 2 and (moved := qa.direction(path[:, begin : i + 1])):
            labels["motion"] = qa.MOTIONS.index(moved)
        for name, value in labels.items():
            cell[name][i][mine[i]] = value
