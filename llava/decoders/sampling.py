"""Which frames of a video a model looks at."""

import numpy as np
from PIL import Image

THUMBNAIL = 32  # pixels of a side
SAME = 1e-3  # grey values, up to which two changes are equal


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


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """(32, 32) grey values of a picture (H, W, 3), each the mean of its part."""
    small = Image.fromarray(frame).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def most_changed(thumbnails: np.ndarray, times: np.ndarray, count: int) -> np.ndarray:
    """Indices (min(count, N),), ascending, of the frames in which the most changes.

    thumbnails: (N, h, w) of `thumbnail`; times: (N,) seconds. The frame that differs the least from the one before it
    goes, until as many are left; of equal ones that which came the soonest after it. The first frame always stays.
    """
    kept = np.arange(len(times))
    while len(kept) > count:
        change = np.abs(np.diff(thumbnails[kept], axis=0)).mean(axis=(1, 2))
        alike = np.flatnonzero(change <= change.min() + SAME)
        kept = np.delete(kept, 1 + alike[np.diff(times[kept])[alike].argmin()])
    return kept


def _every(times: np.ndarray, rate: float, fps: float) -> np.ndarray:
    """One frame every 1/fps seconds: by a fixed step at a constant rate, by the clock at a varying one."""
    total = len(times)
    even = np.arange(total) / rate
    if total < 2 or np.abs(times - even).max() <= 1.0 / rate:
        return np.arange(0, total, max(1, round(min(rate / fps, total))))
    # a frame is taken when the clock has struck since the one before it
    strokes = np.floor((times + 1e-6) * fps)
    return np.flatnonzero(np.diff(strokes, prepend=-1.0) > 0)
