"""Draws clips: backgrounds under a moving camera, things, what passes in front, light and the sensor's noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aot_tiny.drawing import mean_in_cells, shape_mask, write_video
from aot_tiny.film.clips import COLORS, FPS, Clip, sample_clip
from aot_tiny.film.textures import MARGIN, Layer, Swarm, surface

SIZE = 192
# rows of 5x7 dots, the highest bit at the left
DIGITS = {
    "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14), "2": (14, 17, 1, 6, 8, 16, 31),
    "3": (14, 17, 1, 6, 1, 17, 14), "4": (2, 6, 10, 18, 31, 2, 2), "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8), "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
}  # fmt: skip


class Scene:
    """What is behind the things during one scene."""

    def __init__(self, rng: np.random.Generator, size: int):
        wide = round(size * (1 + 2 * MARGIN) / 2)  # half as sharp as the picture
        self.ground = Layer(surface(rng, wide), 1.0)
        self.sky = self.edge = None
        if rng.random() < 0.4:  # something far behind a wavy horizon
            self.sky = Layer(surface(rng, wide), float(rng.uniform(0.2, 0.6)))
            height = MARGIN + rng.uniform(0.25, 0.55)
            x = np.linspace(0, 1 + 2 * MARGIN, wide)
            line = height + 0.04 * np.sin(rng.uniform(3, 9) * x + rng.uniform(0, 6))
            y = np.linspace(0, 1 + 2 * MARGIN, wide)[:, None]
            self.edge = Layer(255 * np.clip((y - line) * wide / 2 + 0.5, 0, 1), 1.0)
        self.swarm = Swarm(rng) if rng.random() < 0.35 else None

    def look(self, t: float, offset: np.ndarray, zoom: float, size: int) -> np.ndarray:
        frame = self.ground.look(offset, zoom, size)
        if self.sky is not None:
            near = self.edge.look(offset, zoom, size)[..., None] / 255
            frame = near * frame + (1 - near) * self.sky.look(offset, zoom, size)
        return frame if self.swarm is None else self.swarm.draw(frame, t, offset, zoom)


def render(clip: Clip, times: np.ndarray, size: int = SIZE) -> np.ndarray:
    """The frames at `times` (seconds): (T, size, size, 3) uint8."""
    return render_with_coverage(clip, times, size)[0]


def render_with_coverage(
    clip: Clip, times: np.ndarray, size: int = SIZE, grid: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Frames, and with `grid` also how much of each cell each drawn thing covers: (T, things, grid, grid) in 0..1."""
    rng = np.random.default_rng([clip.seed, 1])
    times = np.asarray(times, dtype=float)
    scenes = [Scene(rng, size) for _ in clip.cuts]
    tints = {name: np.clip(np.array(rgb) + rng.uniform(-12, 12, 3), 0, 255) for name, rgb in COLORS.items()}
    shown = np.searchsorted(clip.cuts, times + 1e-9, side="right") - 1
    offset, zoom = clip.view(times)
    # what is behind the things
    frames = np.stack([scenes[s].look(times[i], offset[:, i], zoom[i], size) for i, s in enumerate(shown)])
    # the things
    cover = np.zeros((len(times), len(clip.drawn), grid, grid), np.float32) if grid else None
    for k, thing in enumerate(clip.drawn):
        path, radius = clip.path(thing, times)
        for i, t in enumerate(times):
            if not thing.visible(t):
                continue
            alpha, box = shape_mask(thing.shape, path[:, i] * size, radius[i] * size, size)
            paint = _plate(thing.code, alpha.shape) if thing.code else tints[thing.color_at(t)]
            frames[i][box] += alpha[..., None] * (paint - frames[i][box])
            if cover is not None:
                cover[i, k] = mean_in_cells(alpha, box, size, grid)
    # what passes in front, and the sensor
    if clip.pole:
        _draw_pole(clip, times, frames, cover, rng)
    return _expose(frames, times, rng), cover


def _draw_pole(clip: Clip, times: np.ndarray, frames: np.ndarray, cover: np.ndarray | None, rng) -> None:
    """The pole over the frames; what it hides is no longer covered by a thing."""
    size, pole = frames.shape[1], clip.pole
    tone = rng.uniform(25, 60) + rng.uniform(-6, 6, 3)
    columns = (np.arange(size) + 0.5) / size
    for i, center in enumerate(pole.center(times)):
        alpha = np.clip((pole.width / 2 - np.abs(columns - center)) * size + 0.5, 0, 1)
        shade = tone + 25 * np.clip(1 - np.abs(columns - center) / (pole.width / 2), 0, 1)[:, None]
        frames[i] += alpha[None, :, None] * (shade[None] - frames[i])
        if cover is not None:
            grid = cover.shape[-1]
            cover[i] *= 1 - alpha.reshape(grid, size // grid).mean(1)


def _expose(frames: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames as a sensor sees them: light that changes, flicker, and noise of its own for each frame; uint8."""
    drift = rng.uniform(0, 0.2) * (rng.random() < 0.4)
    light = 1 + drift * np.sin(2 * np.pi * times / rng.uniform(12, 40) + rng.uniform(0, 6))
    light = light * (1 + rng.normal(0, rng.uniform(0, 0.02), len(times)))
    warmth = 1 + drift * 0.3 * rng.uniform(-1, 1, 3)
    frames *= (light[:, None, None, None] * warmth).astype(np.float32)
    frames += rng.uniform(1.5, 5) * rng.standard_normal(frames.shape, dtype=np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


def _plate(code: str, shape: tuple[int, ...]) -> np.ndarray:
    """A light plate of a size (h, w) with a dark code on it: (h, w, 3) float32."""
    height, width = shape
    dots = np.zeros((9, 6 * len(code) + 1), np.float32)
    for place, digit in enumerate(code):
        rows = np.array(DIGITS[digit])[:, None] >> np.arange(4, -1, -1) & 1
        dots[1:8, 6 * place + 1 : 6 * place + 6] = rows
    # the plate fills the middle of its box
    v = ((np.arange(height) + 0.5) / height - 0.5) / 0.9 + 0.5
    u = ((np.arange(width) + 0.5) / width - 0.5) / 0.98 + 0.5
    i = np.clip((v * dots.shape[0]).astype(int), 0, dots.shape[0] - 1)
    j = np.clip((u * dots.shape[1]).astype(int), 0, dots.shape[1] - 1)
    return np.repeat((225 - 190 * dots[i][:, j])[..., None], 3, -1)


def write_clip(path: str | Path, seed: int = 0, *, size: int = SIZE, **kinds) -> Clip:
    """Writes the clip of `seed` as an H.264 MP4 of FPS frames a second; kinds as in `sample_clip`."""
    clip = sample_clip(seed, **kinds)
    write_video(path, render(clip, np.arange(clip.frames * FPS) / FPS, size), fps=FPS)
    return clip
