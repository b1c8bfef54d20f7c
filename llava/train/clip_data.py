"""Training data from procedural clips: pixels, and dense labels for patches and for visual tokens."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch.utils.data import Dataset

from llava.eval.world import clips
from llava.eval.world import questions as qa
from llava.eval.world.clips import COLORS, NEEDLE, SHAPES, TIMES

TRAIN_SEEDS = 10_000_000  # training clips start here; held-out clips have smaller seeds
COLOR_NAMES, SHAPE_NAMES = tuple(COLORS), (*SHAPES, NEEDLE)
IGNORE = -100
COLOR_COUNT, MOST_THINGS = len(COLOR_NAMES), 8  # things in a clip, the star included, plus one
# what the newline behind a frame is asked: yes or no each, and classes as (questions, classes)
FRAME_FLAGS = {"sight": COLOR_COUNT, "seen": COLOR_COUNT, "events": 5 * COLOR_COUNT + 2}
FRAME_CLASSES = {
    "things": (1, MOST_THINGS), "inside": (1, MOST_THINGS), "shapes": (len(SHAPES), MOST_THINGS),
    "news": (3, COLOR_COUNT + 1), "index": (1, clips.FRAMES),
}  # fmt: skip


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
    """A training clip: pixels (T, 3, size, size) in [-1, 1], how much of each cell each thing covers
    (T, things, grid, grid) in 0..1, and the clip."""
    clip = clips.sample_clip(seed)
    rng = np.random.default_rng([seed, 2])
    frames, cover = clips.render_with_coverage(clip, times, size, grid)
    if rng.random() < 0.5:
        frames = jpeg(frames, rng)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, cover, clip


def owners(cover: np.ndarray, side: int) -> np.ndarray:
    """The thing that covers most of each cell of a side x side grid: (..., side, side) from (..., things, g, g).

    -1 for none, IGNORE where it barely touches.
    """
    *lead, grid, _ = cover.shape
    cell = grid // side
    cover = cover.reshape(*lead, side, cell, side, cell).mean((-3, -1))
    best, most = cover.argmax(-3), cover.max(-3)
    coarse = min(1.0, (side / 6) ** 2)  # a thing fills less of a larger cell
    return np.where(most > 0.15 * coarse, best, np.where(most > 0.02 * coarse, IGNORE, -1))


class FrameLabels(Dataset):
    """Single frames with a label for every patch: what the tower learns first."""

    def __init__(self, length: int, *, size: int = 96, grid: int = 12, frames: int = 8, start: int = 0):
        self.length, self.size, self.grid, self.frames, self.start = length, size, grid, frames, start

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        seed = TRAIN_SEEDS + self.start + index
        times = np.sort(np.random.default_rng([seed, 3]).choice(TIMES, self.frames, replace=False))
        pixels, cover, clip = draw(seed, times, self.size, self.grid)
        owner = owners(cover, self.grid)
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


def tracks(clip: clips.Clip, owner: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """What a reader of the tokens so far can know, for every token and every frame (T,).

    owner: for each frame the thing of every cell (side, side); sides may differ. Labels of tokens come out as one
    row (cells of all frames,), in frame and raster order.

    Tokens of a thing: its motion, the corner, frame and colour it began with, and its colour, shape and corner now.
    Frames: the colours in sight and seen so far; just now: which colour came, went, was turned to, which things, by the
    colour they began with, went or changed, a new scene, a star; how many things so far, in sight, and of each shape so
    far; the colours of the first and the latest to come and of the first to go; the frame's number.
    """
    colors, count = COLOR_COUNT, len(TIMES)
    names = ("motion", "corner", "begin", "first_color", "color", "shape", "place")
    cell = {name: [np.full(o.shape, IGNORE) for o in owner] for name in names}
    flags = {name: np.zeros((count, n), np.float32) for name, n in FRAME_FLAGS.items()}
    sight, seen, events = flags.values()
    frame = {name: np.zeros((count, n), np.int64) for name, (n, _) in FRAME_CLASSES.items()}
    frame["index"][:, 0] = np.arange(count)
    frame["news"][:] = colors  # none yet
    for cut in clip.cuts[1:]:
        events[qa.shown(cut), -2] = 1
    for k, thing in sorted(enumerate(clip.all_things), key=lambda pair: pair[1].on):
        begin = int(np.searchsorted(TIMES, thing.on))
        where = qa.corner(*thing.center(TIMES[begin]))
        first = COLOR_NAMES.index(thing.color)
        frame["things"][begin:] += 1
        if thing.shape == NEEDLE:
            events[begin, -1] = 1
        else:
            frame["shapes"][begin:, SHAPES.index(thing.shape)] += 1
        if begin:
            events[begin, first] = 1
            frame["news"][begin:, 0] = np.where(frame["news"][begin:, 0] == colors, first, frame["news"][begin:, 0])
            frame["news"][begin:, 1] = first
        for i, t in enumerate(TIMES):
            if not thing.visible(t):
                if i > begin and thing.visible(TIMES[i - 1]):
                    events[i, colors + COLOR_NAMES.index(thing.color_at(TIMES[i - 1]))] = 1
                    events[i, 3 * colors + first] = 1
                continue
            frame["inside"][i] += 1
            now = COLOR_NAMES.index(thing.color_at(t))
            if i > begin and now != first and thing.color_at(TIMES[i - 1]) == thing.color:
                events[i, 2 * colors + now] = events[i, 4 * colors + first] = 1
            sight[i, now] = 1
            seen[i:, now] = 1
            mine = owner[i] == k
            cell["begin"][i][mine], cell["first_color"][i][mine] = begin, first
            cell["color"][i][mine], cell["shape"][i][mine] = now, SHAPE_NAMES.index(thing.shape)
            if here := qa.corner(*thing.center(t)):
                cell["place"][i][mine] = qa.CORNERS.index(here)
            if where:
                cell["corner"][i][mine] = qa.CORNERS.index(where)
            if i >= begin + 2:
                cell["motion"][i][mine] = list(clips.MOTIONS).index(thing.motion)
    gone = [(t.off, COLOR_NAMES.index(t.color_at(t.off - 0.1))) for t in clip.all_things if t.off < clips.DURATION]
    for off, color in sorted(gone)[:1]:
        frame["news"][qa.shown(off) :, 2] = color
    cell = {name: np.concatenate([labels.ravel() for labels in frames]) for name, frames in cell.items()}
    return {k: torch.from_numpy(v) for k, v in (cell | flags | frame).items()}
