"""A video file, or a folder of frames, as frames and times for a model.

decord reads first, PyAV when decord is missing, fails, or the video is long; each in a process of its own
with a limit on its time. Only the frames that are asked for are kept. A file that is cut short is an error,
never a shorter video.
"""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llava.decoders.base import DecoderFailed, Progress, Reading, VideoError
from llava.decoders.child import Child, TimedOut, read_frames
from llava.decoders.decord_reader import have_decord, read_decord
from llava.decoders.frame_folder import read_folder
from llava.decoders.sampling import choose_frames

__all__ = ["DECODERS", "Video", "VideoError", "load_video", "time_text"]

DECODERS = ("auto", "decord", "pyav")
PYAV_WORKER = Path(__file__).parent / "decoders" / "pyav_worker.py"
LONG = 1800.0  # seconds; decord would go through every packet of the file


@dataclass(frozen=True)
class Video:
    """Sampled frames of one video.

    frames: (T,H,W,3) uint8 RGB; times: (T,) seconds from the first frame of the video; duration: seconds of
    the whole video; total_frames and rate (a second): of the whole video; decoder: what read it.
    """

    frames: np.ndarray
    times: np.ndarray
    duration: float
    decoder: str
    total_frames: int
    rate: float


def load_video(
    path: str | os.PathLike,
    *,
    num_frames: int = 32,
    fps: float | None = None,
    force_sample: bool = False,
    decoder: str = "auto",
    progress: Progress | None = None,
    time_limit: float = 600.0,
) -> Video:
    """Reads the frames a model looks at.

    num_frames evenly over the whole video; with fps, one frame every 1/fps seconds, thinned evenly to
    num_frames only when there are more (or force_sample). decoder: "auto", "decord" or "pyav"; a folder of
    .png/.jpg files is read as it is, at one frame a second. progress(done, total) is called for each frame.
    time_limit: seconds after which decoding is stopped.
    Raises VideoError, one sentence, when the video is missing, empty, cut short or no video at all, when its
    decoding crashes or takes too long, or when a setting makes no sense.
    """
    if num_frames < 1:
        raise VideoError(f"num_frames must be at least 1, but is {num_frames}; 16 to 64 are usual.")
    if fps is not None and not 0 < fps < float("inf"):
        raise VideoError(f"fps must be above 0, but is {fps}; 1 is usual.")
    if decoder not in DECODERS:
        raise VideoError(f"There is no decoder {decoder!r}; choose one of {', '.join(DECODERS)}.")
    if not time_limit > 0:
        raise VideoError(f"time_limit must be above 0, but is {time_limit}; 600 seconds are usual.")
    choose = partial(choose_frames, num_frames=num_frames, fps=fps, force_sample=force_sample)
    deadline = time.monotonic() + time_limit
    try:
        name, result = _read(os.fspath(path), choose, decoder, progress, deadline)
    except TimedOut as error:
        raise VideoError(
            f"Reading {path} was stopped after {time_limit:g} seconds; give a shorter or smaller video, or a "
            "higher time_limit."
        ) from error
    return Video(result.frames, result.times, result.duration, name, result.total, result.rate)


def time_text(video: Video) -> str:
    """What LLaVA-Video models are told before the question: the video's length and the time of each frame."""
    times = ",".join(f"{time:.2f}s" for time in video.times)
    return (
        f"The video lasts for {video.duration:.2f} seconds, and {len(video.times)} frames are uniformly "
        f"sampled from it. These frames are located at {times}."
        "Please answer the following questions related to this video."
    )


def _read(path, choose, decoder, progress, deadline) -> tuple[str, Reading]:
    """(name of the decoder that read it, Reading)."""
    if not os.path.exists(path):
        raise VideoError(f"There is no video at {path}; check the path.")
    try:
        if os.path.isdir(path):
            return "folder", read_folder(path, choose, progress)
        if os.path.getsize(path) == 0:
            raise VideoError(f"{path} is empty; copy or download it again.")
        with open(path, "rb"):
            pass
    except PermissionError as error:
        raise VideoError(f"{path} may not be read; change its permissions or give another video.") from error
    if decoder == "decord" and not have_decord():
        raise VideoError("decord is not installed; install it, or leave the choice of decoder at auto.")
    try:
        with Child(PYAV_WORKER, path, silence=None, deadline=deadline) as child:
            found = child.line()
            if decoder == "decord" or (decoder == "auto" and have_decord() and found["seconds"] <= LONG):
                try:
                    container = found["container"]
                    return "decord", read_decord(path, choose, progress, container=container, deadline=deadline)
                except TimedOut:
                    raise
                except DecoderFailed as error:
                    if decoder == "decord":
                        raise VideoError(f"decord cannot read {path} ({error}); use the decoder auto.") from error
            child.send("read")
            return "pyav", read_frames(child, choose, progress)
    except TimedOut:
        raise
    except DecoderFailed as error:
        raise VideoError(f"The decoder gave up on {path} ({error}); convert it to MP4 with H.264.") from error
