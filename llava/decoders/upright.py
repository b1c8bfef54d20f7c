"""Decoded frames as pictures for a model: RGB, upright, in the size of the first, no larger than 4K."""

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation

from llava.decoders.base import reduction

# a display matrix puts pixel (x, y) at (a x + c y, b x + d y); (a, b, c, d) of the four turns and the four mirrors
TURNS = np.array([(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
MIRRORS = np.array([(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
UPRIGHT = tuple(TURNS[0])


def placement(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the turn or mirror nearest to the frame's display matrix."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(float)
    among = MIRRORS if a * d < b * c else TURNS
    return tuple(among[np.argmax(among @ np.array([a, b, c, d]))])


def place(pixels: np.ndarray, placement: tuple[int, int, int, int]) -> np.ndarray:
    """(H,W,3) pixels as they are to be seen."""
    a, b, c, d = placement
    if b:  # rows become columns
        return pixels.transpose(1, 0, 2)[::b, ::c]
    return pixels[::d, ::a]


class Upright:
    """Converts the frames of one film.

    Colours are those of swscale: by the matrix and range that the stream states, as BT.601 and limited range where it
    states none, as ffmpeg does. HDR is not mapped to SDR, and transparency is left out.
    """

    def __init__(self, path: str):
        self.path, self.size = path, (0, 0)

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(H,W,3) uint8."""
        if self.size == (0, 0):
            factor = reduction(self.path, frame.width, frame.height)
            self.size = (max(1, frame.width // factor), max(1, frame.height // factor))
        width, height = self.size
        way = Interpolation.AREA if frame.width > width else Interpolation.BILINEAR
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=way, threads=1)
        return place(pixels, placement(frame))
