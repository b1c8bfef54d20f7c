"""Which frames of a video a model looks at."""

import numpy as np


def choose_frames(
    times: np.ndarray,
    rate: float,
    *,
    num_frames: int,
    fps: float | None = None,
    force_sample: bool = False,
    repeat: bool = True,
) -> np.ndarray:
    """Indices (K,) of the frames to read, ascending.

    times: (N,) seconds of every frame, from 0 on; rate: mean frames a second.
    Without fps: num_frames indices evenly from the first to the last frame, as LLaVA-OneVision is evaluated. With fps:
    one frame every 1/fps seconds, thinned evenly to num_frames only when there are more of them or force_sample is
    set, as LLaVA-Video is evaluated. repeat: a video of fewer frames gives some of them several times, as in both
    evaluations; without it every frame once.
    """
    if fps is not None:
        picked = _every(times, rate, fps)
        if len(picked) <= num_frames and not force_sample:
            return picked
    if len(times) < num_frames and not repeat:
        return np.arange(len(times))
    return np.linspace(0, len(times) - 1, num_frames).astype(int)


def _every(times: np.ndarray, rate: float, fps: float) -> np.ndarray:
    """One frame every 1/fps seconds: by a fixed step at a constant rate, by the clock at a varying one."""
    total = len(times)
    even = np.arange(total) / rate
    if total < 2 or np.abs(times - even).max() <= 1.0 / rate:
        return np.arange(0, total, max(1, round(min(rate / fps, total))))
    # a frame is taken when the clock has struck since the one before it
    strokes = np.floor((times + 1e-6) * fps)
    return np.flatnonzero(np.diff(strokes, prepend=-1.0) > 0)
