"""Procedural clips: small worlds of coloured shapes on textured backgrounds, drawn for any time and size.

A clip is a description (`Clip`), made from a seed by `sample_clip`; `render` draws it at any instants, so
training frames, test videos (`write_clip`) and ground truth all come from the same few numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from aot_tiny.drawing import COLORS, DIRECTIONS, NEEDLE, SHAPES, Timed, mean_in_cells, pattern, shape_mask, write_video

MOTIONS = {**DIRECTIONS, "still": (0, 0)}

DURATION = 16.0  # seconds
FPS = 4
FRAMES = 16  # frames a model looks at
# the instants that uniform sampling of FRAMES frames picks from a written clip
TIMES = np.linspace(0, DURATION * FPS - 1, FRAMES).astype(int) / FPS


@dataclass(frozen=True)
class Thing(Timed):
    """One object. Lengths are fractions of the frame, times are seconds; it is visible in [on, off)."""

    shape: str
    color: str
    radius: float
    start: tuple[float, float]  # centre (x, y) when it appears
    end: tuple[float, float]  # centre (x, y) when it goes
    motion: str
    on: float = 0.0
    off: float = DURATION
    color_after: str | None = None
    change: float | None = None  # when `color` turns into `color_after`
    code: ClassVar[None] = None  # no thing is a sign

    def center(self, t: float) -> tuple[float, float]:
        a = min(max((t - self.on) / (self.off - self.on), 0.0), 1.0)
        return tuple((1 - a) * s + a * e for s, e in zip(self.start, self.end, strict=True))

    def path(self, times: np.ndarray) -> np.ndarray:
        """Centres at `times`: (2, len(times))."""
        a = (times - self.on) / (self.off - self.on)
        start, end = np.array(self.start)[:, None], np.array(self.end)[:, None]
        return start + a * (end - start)


@dataclass(frozen=True)
class Clip:
    """Things and scenes: `cuts` are the starts of the scenes, the first one 0.0; `needle` is a brief star.

    Questions read it as they read a clip of film.
    """

    seed: int
    cuts: tuple[float, ...]
    things: tuple[Thing, ...]
    needle: Thing | None
    sign: ClassVar[None] = None
    frames: ClassVar[int] = FRAMES
    times: ClassVar[np.ndarray] = TIMES
    most_objects: ClassVar[int] = 7

    @property
    def all_things(self) -> tuple[Thing, ...]:
        return self.things + ((self.needle,) if self.needle else ())

    def path(self, thing: Thing, times: np.ndarray) -> tuple[np.ndarray, float]:
        """Centres of a thing, (2, n), and its radius."""
        return thing.path(times), thing.radius

    def center(self, thing: Thing, t: float) -> tuple[float, float]:
        return thing.center(t)


def sample_clip(seed: int, *, frames: int = FRAMES) -> Clip:
    """The clip of a seed; equal seeds give equal clips on every machine. ValueError for frames other than 16."""
    if frames != FRAMES:
        raise ValueError(f"Clips of shapes have {FRAMES} frames, not {frames}.")
    rng = np.random.default_rng(seed)
    has_cut = rng.random() < 0.25
    counts = rng.integers(1, 4, 2) if has_cut else rng.integers(2, 7, 1)  # things in each scene
    while True:
        clip = _propose(rng, seed, counts)
        if clip is not None:
            return clip


def _propose(rng: np.random.Generator, seed: int, counts: np.ndarray) -> Clip | None:
    """One draw with the given number of things a scene; None when they do not fit beside each other."""
    palette = [str(c) for c in rng.permutation(list(COLORS))]
    slots = list(rng.permutation(np.arange(2, FRAMES - 1)))  # frames before which an event may happen
    used: list[int] = []

    def event(low: int, high: int) -> int | None:
        """A frame in [low, high], two or more away from every other event."""
        for slot in slots:
            if low <= slot <= high and all(abs(slot - u) >= 2 for u in used):
                used.append(int(slot))
                return int(slot)
        return None

    cut = event(6, 10) if len(counts) > 1 else None
    scenes = [(0, FRAMES)] if cut is None else [(0, cut), (cut, FRAMES)]
    things: list[Thing] = []
    for (first, last), count in zip(scenes, counts, strict=True):
        for _ in range(count):
            thing = _propose_thing(rng, palette, event, first, last, things)
            if thing is None:
                return None
            things.append(thing)
    needle = None
    if rng.random() < 0.5:
        visible = int(rng.integers(1, 3))
        frame = event(1, FRAMES - 1 - visible)
        if frame is not None:
            on, off = TIMES[frame] - 0.3, TIMES[frame + visible - 1] + 0.3
            color = str(rng.choice(list(COLORS)))
            needle = _place(rng, NEEDLE, color, "still", float(on), float(off), things)
            if needle is None:
                return None
    cuts = (0.0,) if cut is None else (0.0, _before(cut))
    return Clip(seed, cuts, tuple(things), needle)


def _before(frame: int) -> float:
    """The instant of an event that `frame` is the first to show."""
    return float(TIMES[frame] - 0.4)


def _propose_thing(rng, palette, event, first: int, last: int, others) -> Thing | None:
    color, shape = palette.pop(), str(rng.choice(SHAPES))
    on, off = first, last
    kind = rng.random()
    if kind < 0.3:
        on = event(first + 2, last - 5) or first
    elif kind < 0.5:
        off = event(first + 5, last - 2) or last
    begin = 0.0 if on == 0 else _before(on)
    end = DURATION if off == FRAMES else _before(off)
    after = change = None
    if rng.random() < 0.3 and len(palette) > 3:
        frame = event(on + 3, off - 3)
        if frame is not None:
            after, change = palette.pop(), _before(frame)
    moves = off - on >= 5 and rng.random() < 0.65
    motion = str(rng.choice(["left", "right", "up", "down"])) if moves else "still"
    return _place(rng, shape, color, motion, begin, end, others, color_after=after, change=change)


def _place(rng, shape, color, motion, on, off, others, **change) -> Thing | None:
    """A thing that keeps clear of the middle lines at its start and of every other thing while visible."""
    dx, dy = MOTIONS[motion]
    for _ in range(40):
        radius = float(rng.uniform(0.095, 0.135))
        low, high = radius + 0.01, 0.99 - radius
        x, y = (float(rng.uniform(low, high)) for _ in range(2))
        way = float(rng.uniform(0.35, 0.55))
        end = (x + dx * way, y + dy * way)
        if min(abs(x - 0.5), abs(y - 0.5)) < 0.07 or not all(low <= c <= high for c in end):
            continue
        thing = Thing(shape, color, radius, (x, y), end, motion, on, off, **change)
        if all(_clear(thing, other) for other in others):
            return thing
    return None


def _clear(a: Thing, b: Thing) -> bool:
    both = (max(a.on, b.on) <= TIMES) & (min(a.off, b.off) > TIMES)
    distance = np.hypot(*(a.path(TIMES[both]) - b.path(TIMES[both])))
    return bool((distance > a.radius + b.radius + 0.02).all())


def render(clip: Clip, times, size: int = 96) -> np.ndarray:
    """The frames at `times` (seconds): (T, size, size, 3) uint8."""
    return render_with_coverage(clip, times, size)[0]


def render_with_coverage(
    clip: Clip, times, size: int = 96, grid: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Frames, and with `grid` also how much of each cell each thing covers: (T, things, grid, grid) in 0..1."""
    rng = np.random.default_rng([clip.seed, 1])
    scenes = [_background(rng, size) for _ in clip.cuts]
    tints = {name: np.clip(np.array(rgb) + rng.uniform(-12, 12, 3), 0, 255) for name, rgb in COLORS.items()}
    shown = np.searchsorted(clip.cuts, np.asarray(times) + 1e-9, side="right") - 1
    frames = np.stack([scenes[s] for s in shown])  # (T, size, size, 3)
    cover = np.zeros((len(times), len(clip.all_things), grid, grid), np.float32) if grid else None
    for k, thing in enumerate(clip.all_things):
        for i, t in enumerate(times):
            if thing.visible(t):
                center = [c * size for c in thing.center(t)]
                alpha, box = shape_mask(thing.shape, center, thing.radius * size, size)
                frames[i][box] += alpha[..., None] * (tints[thing.color_at(t)] - frames[i][box])
                if cover is not None:
                    cover[i, k] = mean_in_cells(alpha, box, size, grid)
    frames += rng.normal(0, 3, frames.shape[1:]).astype(np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8), cover


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A dull, textured background (size, size, 3) float32."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    base = rng.uniform(50, 130) + rng.uniform(-18, 18, 3)
    kind = ("blotches", "stripes", "checks", "slope", "dots")[rng.integers(5)]
    if kind == "blotches":
        n = int(rng.integers(3, 9))
        coarse = rng.normal(0, 1, (n + 1, n + 1))
        i, j = np.minimum((y * n).astype(int), n - 1), np.minimum((x * n).astype(int), n - 1)
        fy, fx = y * n - i, x * n - j
        texture = ((1 - fy) * ((1 - fx) * coarse[i, j] + fx * coarse[i, j + 1])
                   + fy * ((1 - fx) * coarse[i + 1, j] + fx * coarse[i + 1, j + 1]))  # fmt: skip
    else:
        texture = pattern(kind, rng, x, y)
    amplitude = rng.uniform(5, 18)
    return (base + amplitude * texture[..., None]).astype(np.float32)


def write_clip(path: str | Path, seed: int = 0, *, size: int = 192) -> Clip:
    """Write the clip of `seed` as an H.264 MP4 of 16 s at 4 frames per second; returns its description."""
    clip = sample_clip(seed)
    write_video(path, render(clip, np.arange(int(DURATION * FPS)) / FPS, size), fps=FPS)
    return clip
