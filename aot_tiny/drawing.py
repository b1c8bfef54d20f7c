"""What both worlds draw with: colours, masks of shapes, and clips as video files."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
NEEDLE = "star"  # the shape of brief events only
COLORS = {
    "red": (215, 40, 40), "green": (40, 165, 60), "blue": (50, 80, 225), "yellow": (240, 215, 40),
    "purple": (150, 60, 190), "orange": (240, 135, 30), "white": (245, 245, 245), "cyan": (60, 210, 220),
}  # fmt: skip
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


class Timed:
    """A thing of either world in time: visible in [on, off), and of another colour from `change` on."""

    color: str
    on: float
    off: float
    color_after: str | None
    change: float | None

    def visible(self, t: float) -> bool:
        return self.on <= t < self.off

    def color_at(self, t: float) -> str:
        return self.color_after if self.change is not None and t >= self.change else self.color


def shape_mask(shape: str, center: Iterable[float], radius: float, size: int):
    """Antialiased coverage of a thing's bounding box, and the box as slices (rows, columns); in pixels."""
    x, y = center
    top, left = max(int(y - radius - 2), 0), max(int(x - radius - 2), 0)
    rows, cols = np.arange(top, min(int(y + radius + 3), size)), np.arange(left, min(int(x + radius + 3), size))
    u, v = (cols[None, :] + 0.5 - x) / radius, (rows[:, None] + 0.5 - y) / radius
    alpha = np.clip(0.5 - signed_distance(shape, u, v) * radius, 0, 1).astype(np.float32)
    return alpha, (slice(top, top + len(rows)), slice(left, left + len(cols)))


def mean_in_cells(alpha: np.ndarray, box, size: int, grid: int) -> np.ndarray:
    """How much of each cell of a grid x grid picture a mask from `shape_mask` covers: (grid, grid) in 0..1."""
    full = np.zeros((size, size), np.float32)
    full[box] = alpha
    return full.reshape(grid, size // grid, grid, size // grid).mean((1, 3))


def signed_distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to the outline in units of the radius, negative inside; exact near it, where it matters."""
    a, b = np.abs(u), np.abs(v)
    if shape == "circle":
        return np.hypot(u, v) - 0.95
    if shape == "square":
        return np.maximum(a, b) - 0.84
    if shape == "sign":
        return np.maximum(a - 0.98, b - 0.7)
    if shape == "triangle":
        return np.maximum(v - 0.75, a * 0.88 - v * 0.47 - 0.46)
    if shape == "cross":
        return np.minimum(np.maximum(a - 0.95, b - 0.33), np.maximum(a - 0.33, b - 0.95))
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.7) - 0.24
    if shape == "diamond":
        return (a * 1.35 + b - 1.0) / 1.6
    if shape == NEEDLE:
        angle = np.mod(np.arctan2(u, -v) + np.pi / 5, 2 * np.pi / 5) - np.pi / 5  # five equal points
        return np.hypot(u, v) * np.cos(np.abs(angle) - 0.95) - 0.58
    raise ValueError(f"unknown shape {shape!r}: use one of {', '.join(SHAPES)}, sign or {NEEDLE}")


def pattern(kind: str, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A made pattern of about -1 to 1 at the places (x, y): "stripes", "checks", "dots", or a "slope"."""
    if kind == "stripes":
        angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 9)
        return np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)))
    if kind == "checks":
        n = rng.integers(3, 9)
        return ((x * n).astype(int) + (y * n).astype(int)) % 2 * 2.0 - 1
    if kind == "dots":
        n = rng.uniform(4, 10)
        return 2.0 * (np.hypot((x * n) % 1 - 0.5, (y * n) % 1 - 0.5) < 0.3) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    return 2 * (x * np.cos(angle) + y * np.sin(angle))


def write_video(path: str | Path, frames: np.ndarray, *, fps: int, crf: int = 18) -> None:
    """Writes frames (T, S, S, 3) uint8 as an H.264 MP4 that is there whole or not at all; several processes may."""
    import av

    path, size = Path(path), frames.shape[1]
    part = path.with_name(f".{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        with av.open(str(part), "w") as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf), "preset": "veryfast"}
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
