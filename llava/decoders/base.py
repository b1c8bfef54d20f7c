"""What every reader shares: the error, the result and the way frames are chosen."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# (times (N,) seconds from the first frame, frames a second) -> indices (K,), ascending, repeats allowed
Choose = Callable[[np.ndarray, float], np.ndarray]
# (frames read so far, frames asked for)
Progress = Callable[[int, int], None]


class VideoError(ValueError):
    """A video that cannot be used; the text is one sentence that says what to do."""


class DecoderFailed(RuntimeError):
    """One decoder could not read a file that another one may still read."""


@dataclass(frozen=True)
class Choice:
    """Which frames were chosen: indices (K,), ascending, among the times (N,) s of all frames; rate a second."""

    indices: np.ndarray
    times: np.ndarray
    rate: float

    @property
    def wanted(self) -> np.ndarray:
        """(U,) the chosen frames, each once."""
        return np.unique(self.indices)

    @property
    def chosen_times(self) -> np.ndarray:
        """(K,) seconds."""
        return self.times[self.indices]

    @property
    def duration(self) -> float:
        """Seconds of the whole video, its last frame included."""
        return float(self.times[-1]) + 1.0 / self.rate


@dataclass(frozen=True)
class Reading:
    """Chosen frames of one video: frames (K,H,W,3) uint8 RGB, times (K,) s, length and rate of the whole."""

    frames: np.ndarray
    times: np.ndarray
    duration: float
    rate: float
    total: int


def reading(frames: np.ndarray, choice: Choice) -> Reading:
    """The result from the distinct frames (U,H,W,3), each read once."""
    _, inverse = np.unique(choice.indices, return_inverse=True)
    if len(frames) != len(choice.indices):
        frames = frames[inverse]
    return Reading(frames, choice.chosen_times, choice.duration, choice.rate, len(choice.times))
