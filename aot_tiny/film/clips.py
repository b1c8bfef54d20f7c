"""Clips as descriptions: what happens in a small filmed world, drawn from a seed.

A clip is a few numbers (`Clip`), so pixels, questions, answers, captions and dense labels all follow from the same ones
(`aot_tiny.film.render`, `aot_tiny.film.questions`). Lengths are fractions of the frame's side, times are seconds, one
frame is looked at a second. Things lie on a ground that the camera looks at. Places and motion are those on the screen.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from aot_tiny.drawing import COLORS, DIRECTIONS, NEEDLE, SHAPES, Timed

LENGTHS = {16: 0.4, 24: 0.2, 32: 0.2, 48: 0.1, 64: 0.1}  # frames looked at, and the share of clips that have so many
CAMERAS = ("still", "pan", "zoom", "shake")
SIZES = {"small": (0.045, 0.065), "medium": (0.07, 0.1), "large": (0.11, 0.15)}  # radii
FPS = 4  # of a written clip
FADE = 0.4  # an event happens so long before the first frame that shows it


def frame_times(frames: int) -> np.ndarray:
    """(T,) the instants that uniform sampling of `frames` frames picks from a written clip of as many seconds."""
    return np.linspace(0, frames * FPS - 1, frames).astype(int) / FPS


def _ease(t: np.ndarray, begin: float, end: float) -> np.ndarray:
    """0 before `begin`, 1 behind `end`, smooth in between."""
    a = np.clip((t - begin) / max(end - begin, 1e-6), 0.0, 1.0)
    return a * a * (3 - 2 * a)


@dataclass(frozen=True)
class Camera:
    """How the ground is looked at during a scene: moves inside [begin, end), rests otherwise.

    kind: one of CAMERAS. pan: (x, y) in frames. zoom: magnification at the end. phases: of a hand that shakes.
    """

    kind: str
    begin: float = 0.0
    end: float = 0.0
    pan: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    phases: tuple[float, ...] = (0.0,) * 6

    def view(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the camera looks: offsets (2, n), and magnifications (n,)."""
        moved = _ease(times, self.begin, self.end)
        offset = np.array(self.pan)[:, None] * moved
        if self.kind == "shake":
            held = np.clip(np.minimum(times - self.begin, self.end - times) + 0.5, 0, 1)
            waves = np.array([[2.1, 3.7, 7.9], [1.7, 4.3, 8.3]])
            phases = np.array(self.phases).reshape(2, 3)
            size = np.array([0.012, 0.008, 0.005])
            offset = offset + held * (
                size[None, :, None] * np.sin(waves[..., None] * times[None, None] + phases[..., None])
            ).sum(1)
        return offset, 1 + (self.zoom - 1) * moved


@dataclass(frozen=True)
class Thing(Timed):
    """One thing on the ground; it is visible in [on, off) and moves during [begin, end].

    start, end_at: centres (x, y) before and after its motion. code: what is written on it, for signs only.
    """

    shape: str
    color: str
    radius: float
    start: tuple[float, float]
    end_at: tuple[float, float]
    on: float
    off: float
    begin: float = 0.0
    end: float = 0.0
    color_after: str | None = None
    change: float | None = None  # when `color` turns into `color_after`
    code: str | None = None

    def ground(self, times: np.ndarray) -> np.ndarray:
        """Centres on the ground: (2, n)."""
        moved = _ease(times, self.begin, self.end)
        return np.array(self.start)[:, None] * (1 - moved) + np.array(self.end_at)[:, None] * moved


@dataclass(frozen=True)
class Pole:
    """Something in front of the camera that crosses the picture from side to side during [begin, end]."""

    begin: float
    end: float
    width: float
    leftward: bool

    def center(self, times: np.ndarray) -> np.ndarray:
        """(n,) horizontal centres, outside the picture before and after."""
        at = (times - self.begin) / (self.end - self.begin)
        at = np.where(self.leftward, 1 - at, at)
        return -0.2 + 1.4 * at


@dataclass(frozen=True)
class Clip:
    """A clip of `frames` frames (seconds). cuts: starts of the scenes, the first 0. cameras: one a scene.

    things: named by colour and shape, each first colour once. needle: a brief star. sign: a plate with a code.
    """

    seed: int
    frames: int
    cuts: tuple[float, ...]
    cameras: tuple[Camera, ...]
    things: tuple[Thing, ...]
    needle: Thing | None = None
    sign: Thing | None = None
    pole: Pole | None = None
    most_objects: ClassVar[int] = 8

    @property
    def all_things(self) -> tuple[Thing, ...]:
        """Things and the star: what counts as an object."""
        return self.things + ((self.needle,) if self.needle else ())

    @property
    def drawn(self) -> tuple[Thing, ...]:
        """All that is drawn, the sign last."""
        return self.all_things + ((self.sign,) if self.sign else ())

    @property
    def times(self) -> np.ndarray:
        """(T,) instants of the frames that a model looks at."""
        return frame_times(self.frames)

    @property
    def camera(self) -> str:
        """The stratum: "still" or "moving"."""
        return "still" if all(camera.kind == "still" for camera in self.cameras) else "moving"

    def view(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets (2, n) and magnifications (n,) of the camera that is on at each instant."""
        scene = np.searchsorted(self.cuts, times + 1e-9, side="right") - 1
        views = [camera.view(times) for camera in self.cameras]
        offset = np.stack([v[0] for v in views])[scene, :, np.arange(len(times))].T
        return offset, np.stack([v[1] for v in views])[scene, np.arange(len(times))]

    def path(self, thing: Thing, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres of a thing on the screen, (2, n), and its radii there, (n,)."""
        offset, zoom = self.view(times)
        return 0.5 + zoom * (thing.ground(times) - 0.5 - offset), thing.radius * zoom

    def center(self, thing: Thing, t: float) -> tuple[float, float]:
        x, y = self.path(thing, np.array([t]))[0][:, 0]
        return float(x), float(y)


def sample_clip(seed: int, *, frames: int | None = None, camera: str | None = None, sign: float = 0.4) -> Clip:
    """The clip of a seed, of a given length and kind of camera if wanted; equal arguments give equal clips.

    sign: probability that a sign is tried.
    """
    rng = np.random.default_rng(seed)
    length = int(rng.choice(list(LENGTHS), p=list(LENGTHS.values())))
    kinds = [str(k) for k in rng.choice(CAMERAS, 2, p=(0.4, 0.3, 0.15, 0.15))]
    length, kinds = frames or length, [camera or kind for kind in kinds]
    has_cut = rng.random() < 0.25
    most = 6 if length < 32 else 7
    counts = rng.integers(1, 4, 2) if has_cut else rng.integers(2, most + 1, 1)  # things in each scene
    while True:
        clip = _Draft(rng, seed, length, kinds).clip(counts, sign)
        if clip is not None:
            return clip


def sample_signs(seed: int) -> Clip:
    """A still clip of signs, one in each quarter of the picture and others in each quarter of the time: what digits
    are learnt from.
    """
    rng, frames = np.random.default_rng([seed, 6]), 16
    signs = []
    for part, x, y in itertools.product(range(4), (0.25, 0.75), (0.25, 0.75)):
        at = (x + float(rng.uniform(-0.05, 0.05)), y + float(rng.uniform(-0.08, 0.08)))
        radius, code = float(rng.uniform(0.13, 0.19)), f"{rng.integers(10)}{rng.integers(10)}"
        signs.append(Thing("sign", "white", radius, at, at, part * frames / 4, (part + 1) * frames / 4, code=code))
    return Clip(seed, frames, (0.0,), (Camera("still"),), tuple(signs))


class _Draft:
    """One attempt at a clip; `clip` returns None when its things do not fit beside each other."""

    def __init__(self, rng: np.random.Generator, seed: int, frames: int, kinds: list[str]):
        self.rng, self.seed, self.frames, self.kinds = rng, seed, frames, kinds
        self.times = frame_times(frames)
        self.palette = [str(c) for c in rng.permutation(list(COLORS))]
        self.used: list[int] = []
        # events gather in a busy stretch, the rest of a clip stands still
        share = rng.uniform(0.45, 1.0) if frames > 16 else 1.0
        begin = rng.uniform(0, 1 - share) * frames
        self.busy = (max(1, round(begin)), min(frames - 1, round(begin + share * frames)))
        slots = np.arange(self.busy[0] + 1, self.busy[1])
        self.slots = [int(s) for s in rng.permutation(slots)]

    def clip(self, counts: np.ndarray, sign_share: float) -> Clip | None:
        rng, frames = self.rng, self.frames
        cut = self.event(round(0.38 * frames), round(0.62 * frames)) if len(counts) > 1 else None
        scenes = [(0, frames)] if cut is None else [(0, cut), (cut, frames)]
        cameras = tuple(self.camera(kind, *scene) for kind, scene in zip(self.kinds, scenes, strict=False))
        cuts = (0.0,) if cut is None else (0.0, self.instant(cut))
        clip = Clip(self.seed, frames, cuts, cameras, ())
        if rng.random() < sign_share:
            sign = self.sign(clip)
            clip = clip if sign is None else replace(clip, sign=sign)
        for (first, last), count in zip(scenes, counts, strict=False):
            for _ in range(count):
                thing = self.thing(clip, first, last)
                if thing is None:
                    return None
                clip = replace(clip, things=(*clip.things, thing))
        if rng.random() < 0.5:
            needle = self.needle(clip)
            clip = clip if needle is None else replace(clip, needle=needle)
        return replace(clip, pole=self.pole()) if rng.random() < 0.25 else clip

    def event(self, low: int, high: int) -> int | None:
        """A frame in [low, high], two or more away from every other event."""
        for slot in self.slots:
            if low <= slot <= high and all(abs(slot - u) >= 2 for u in self.used):
                self.used.append(slot)
                return slot
        return None

    def instant(self, frame: int) -> float:
        """When an event happens that `frame` is the first to show."""
        return 0.0 if frame == 0 else float(self.times[frame] - FADE)

    def camera(self, kind: str, first: int, last: int) -> Camera:
        rng = self.rng
        begin, end = max(first, self.busy[0]), min(last, self.busy[1])
        if end - begin < 3:
            begin, end = first, last
        pan, zoom = (0.0, 0.0), 1.0
        if kind == "pan":
            angle = rng.uniform(0, 2 * np.pi)
            size = rng.uniform(0.1, 0.25)
            pan = (float(size * np.cos(angle)), float(size * np.sin(angle)))
        elif kind == "zoom":
            zoom = float(rng.choice([rng.uniform(0.7, 0.85), rng.uniform(1.15, 1.35)]))
        phases = tuple(float(p) for p in rng.uniform(0, 2 * np.pi, 6))
        return Camera(kind, float(self.times[begin]), float(self.times[min(end, self.frames - 1)]), pan, zoom, phases)

    def thing(self, clip: Clip, first: int, last: int) -> Thing | None:
        rng = self.rng
        if not self.palette:
            return None
        color, shape, size = self.palette.pop(), str(rng.choice(SHAPES)), str(rng.choice(list(SIZES)))
        on, off, kind = first, last, rng.random()
        if kind < 0.3:
            on = self.event(first + 2, last - 5) or first
        elif kind < 0.5:
            off = self.event(first + 5, last - 2) or last
        after = change = None
        if rng.random() < 0.3 and len(self.palette) > 2:
            frame = self.event(on + 3, off - 3)
            if frame is not None:
                after, change = self.palette.pop(), self.instant(frame)
        begin, end = max(on, self.busy[0]), min(off - 1, self.busy[1])
        moves = end - begin >= 4 and rng.random() < 0.65
        way = DIRECTIONS[str(rng.choice(list(DIRECTIONS)))] if moves else (0, 0)
        span = (float(self.times[begin]), float(self.times[end])) if moves else (0.0, 0.0)
        until = float(self.frames) if off == self.frames else self.instant(off)
        for _ in range(60):
            radius, start = float(rng.uniform(*SIZES[size])), tuple(float(c) for c in rng.uniform(-0.1, 1.1, 2))
            far = float(rng.uniform(0.35, 0.55))
            end_at = (start[0] + way[0] * far, start[1] + way[1] * far)
            thing = Thing(
                shape, color, radius, start, end_at, self.instant(on), until, *span, color_after=after, change=change
            )
            if self.fits(clip, thing):
                return thing
        return None

    def needle(self, clip: Clip) -> Thing | None:
        rng = self.rng
        shown = int(rng.integers(1, 3))
        frame = self.event(1, self.frames - 1 - shown)
        if frame is None:
            return None
        on, off = float(self.times[frame] - 0.3), float(self.times[frame + shown - 1] + 0.3)
        color = str(rng.choice(list(COLORS)))
        for _ in range(60):
            at = tuple(float(c) for c in rng.uniform(-0.1, 1.1, 2))
            star = Thing(NEEDLE, color, float(rng.uniform(0.07, 0.12)), at, at, on, off)
            if self.fits(clip, star):
                return star
        return None

    def sign(self, clip: Clip) -> Thing | None:
        """A plate with two digits that stands for at least three frames."""
        rng, frames = self.rng, self.frames
        on = int(rng.integers(0, frames - 4)) if rng.random() < 0.5 else 0
        off = int(rng.integers(on + 3, frames + 1))
        until = float(frames) if off == frames else self.instant(off)
        code = f"{rng.integers(10)}{rng.integers(10)}"
        for _ in range(60):
            at = tuple(float(c) for c in rng.uniform(0, 1, 2))
            plate = Thing("sign", "white", float(rng.uniform(0.15, 0.2)), at, at, self.instant(on), until, code=code)
            if self.fits(clip, plate):
                return plate
        return None

    def fits(self, clip: Clip, thing: Thing) -> bool:
        """Whether a thing stays in the picture and clear of all others, whenever it can be seen."""
        seen = self.times[(thing.on <= self.times) & (thing.off > self.times)]
        if not len(seen):
            return False
        path, radius = clip.path(thing, seen)
        if not (np.minimum(path, 1 - path) > radius + 0.01).all():
            return False
        for other in clip.drawn:
            both = (other.on <= seen) & (other.off > seen)
            there, reach = clip.path(other, seen[both])
            if not (np.hypot(*(path[:, both] - there)) > radius[both] + reach + 0.015).all():
                return False
        return True

    def pole(self) -> Pole | None:
        """Crosses in three to five seconds in which nothing happens and that touch neither end; None where none are."""
        for first in self.rng.permutation(np.arange(2, max(3, self.frames - 7))):
            last = int(first) + int(self.rng.integers(3, 6))
            if last < self.frames - 2 and all(not first - 1 <= u <= last + 1 for u in self.used):
                width, left = float(self.rng.uniform(0.05, 0.09)), bool(self.rng.random() < 0.5)
                return Pole(float(first), float(last), width, left)
        return None
