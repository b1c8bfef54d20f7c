"""What lies behind the things: natural-looking grounds, skies, and what stirs on them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from aot_tiny.drawing import pattern

MARGIN = 0.75  # a texture reaches so many frames beyond each side of the picture


def pink_noise(rng: np.random.Generator, size: int, power: float) -> np.ndarray:
    """(size, size) float32 noise, mean 0 and deviation 1, whose amplitude falls as frequency^-power."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = frequency**-power * np.exp(2j * np.pi * rng.random(frequency.shape))
    noise = np.fft.irfft2(spectrum, (size, size))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def surface(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32: a dull surface of natural or made pattern, never as bright as a thing."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size * (1 + 2 * MARGIN)
    base = rng.uniform(50, 130) + rng.uniform(-18, 18, 3)
    kind = rng.choice(["noise", "stripes", "checks", "dots", "slope"], p=[0.6, 0.12, 0.1, 0.1, 0.08])
    amplitude = rng.uniform(5, 18)
    if kind == "noise":
        texture = pink_noise(rng, size, rng.uniform(0.9, 1.8))
        amplitude = rng.uniform(8, 20)
    else:
        texture = pattern(kind, rng, x, y)
    grain = pink_noise(rng, size, 0.5) * rng.uniform(1, 5)
    tint = rng.uniform(-0.15, 0.15, 3) * amplitude
    out = base + (amplitude * texture + grain)[..., None] + tint * texture[..., None]
    return np.clip(out, 20, 165).astype(np.float32)


class Layer:
    """A picture behind the things that the camera passes over; `depth` 1 moves as the ground, less is farther away."""

    def __init__(self, pixels: np.ndarray, depth: float):
        self.image, self.depth = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), depth

    def look(self, offset: np.ndarray, zoom: float, size: int) -> np.ndarray:
        """The part that is seen, (size, size, channels) float32. offset: (2,) of the camera."""
        scale = self.image.width / (1 + 2 * MARGIN)  # texture pixels a frame
        zoom = 1 + (zoom - 1) * self.depth
        step = scale / (size * zoom)
        corner = [scale * (MARGIN + 0.5 + float(o) * self.depth - 0.5 / zoom) for o in offset]
        matrix = (step, 0, corner[0], 0, step, corner[1])
        seen = self.image.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return np.asarray(seen, dtype=np.float32)


class Swarm:
    """Leaves that sway or a crowd that wanders: many small dull blobs on the ground."""

    def __init__(self, rng: np.random.Generator):
        self.sway = bool(rng.random() < 0.5)
        count = int(rng.integers(20, 60))
        self.at = rng.uniform(-0.4, 1.4, (count, 2))
        self.size = rng.uniform(0.006, 0.02, (count, 2))
        tone = rng.uniform(50, 130, (count, 1)) + rng.uniform(-12, 12, (count, 3))
        self.color = [tuple(int(v) for v in row) for row in tone]
        self.phase = rng.uniform(0, 2 * np.pi, (count, 2))
        self.speed = rng.uniform(0.3, 1.2, (count, 2))
        self.reach = 0.008 if self.sway else float(rng.uniform(0.02, 0.06))

    def draw(self, frame: np.ndarray, t: float, offset: np.ndarray, zoom: float) -> np.ndarray:
        """The frame (S, S, 3) with the blobs as they are at t."""
        size = len(frame)
        image = Image.fromarray(frame.astype(np.uint8))
        pen = ImageDraw.Draw(image)
        at = self.at + self.reach * np.sin(self.phase + self.speed * t)
        at = (0.5 + zoom * (at - 0.5 - offset)) * size
        half = self.size * zoom * size
        for (x, y), (a, b), color in zip(at, half, self.color, strict=True):
            if -a < x < size + a and -b < y < size + b:
                pen.ellipse((x - a, y - b, x + a, y + b), fill=color)
        return np.asarray(image, dtype=np.float32)
