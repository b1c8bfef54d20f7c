"""What every reader shares: the errors, the way frames are chosen, and the bounds of a picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

# (times (N,) seconds from the first frame, frames a second) -> indices (K,), ascending, repeats allowed
FrameSampler = Callable[[np.ndarray, float], np.ndarray]
# the same, asked by a reader in the decoder's process: frame numbers, ascending and distinct
Ask = Callable[[np.ndarray, float], Sequence[int]]
# (frames read so far, frames asked for)
Progress = Callable[[int, int], None]

MOST_PIXELS = 2**26  # of a picture that is decoded at all: 8192x8192, twice 8K
FRAME_PIXELS = 4096 * 2304  # of a picture that is handed on: 4K; larger ones are averaged down
SLOWEST = 3600.0  # seconds a frame on the mean, beyond which times are not believed


class VideoError(ValueError):
    """A video that cannot be used; the text is one sentence that says what to do."""


class DecoderFailed(RuntimeError):
    """The decoder stopped, or sent what cannot be true."""


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


def plausible_times(times: np.ndarray, rate: float, seconds: float) -> bool:
    """Can these be the times (N,) s of a film that states `seconds` (0: nothing) and `rate` frames a second?"""
    if not len(times) or not np.isfinite(times).all() or not 0 < rate < float("inf"):
        return False
    span = float(times[-1] - times[0])
    longest = min(SLOWEST * len(times), 2 * seconds + 60 if seconds > 0 else float("inf"))
    return bool((np.diff(times) >= 0).all()) and span <= longest and (span > 0 or len(times) == 1)


def is_camera(source: str) -> bool:
    """RTSP or a V4L2 device, by its name alone: nothing else is opened by name."""
    return source.startswith(("rtsp://", "/dev/video"))


def downscale_factor(path: str, width: int, height: int) -> int:
    """By which whole factor pictures are averaged down to FRAME_PIXELS. VideoError where they are too large at all."""
    if width * height > MOST_PIXELS:
        raise VideoError(
            f"{path} has pictures of {width}x{height}, which is more than {MOST_PIXELS // 2**20} million pixels; "
            "scale them down first."
        )
    return max(1, ceil(sqrt(width * height / FRAME_PIXELS)))
