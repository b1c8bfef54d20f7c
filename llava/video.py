"""A video file, or a folder of frames, as frames and times for a model.

decord reads first (in a process of its own), PyAV when decord is missing or fails. Only the frames that are
asked for are kept. A file that is cut short is an error, never a shorter video.
"""

import os
from dataclasses import dataclass
from functools import partial

import numpy as np

from llava.decoders.base import DecoderFailed, Progress, VideoError
from llava.decoders.container import check_container
from llava.decoders.decord_reader import have_decord, read_decord
from llava.decoders.frame_folder import read_folder
from llava.decoders.pyav_reader import read_pyav
from llava.decoders.sampling import choose_frames

__all__ = ["DECODERS", "Video", "VideoError", "load_video", "time_text"]

DECODERS = ("auto", "decord", "pyav")


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
) -> Video:
    """Reads the frames a model looks at.

    num_frames evenly over the whole video; with fps, one frame every 1/fps seconds, thinned evenly to
    num_frames only when there are more (or force_sample). decoder: "auto", "decord" or "pyav"; a folder of
    .png/.jpg files is read as it is, at one frame a second. progress(done, total) is called for each frame.
    Raises VideoError, one sentence, when the video is missing, empty, cut short or no video at all, or when
    a setting makes no sense.
    """
    if num_frames < 1:
        raise VideoError(f"num_frames must be at least 1, but is {num_frames}; 16 to 64 are usual.")
    if fps is not None and not 0 < fps < float("inf"):
        raise VideoError(f"fps must be above 0, but is {fps}; 1 is usual.")
    if decoder not in DECODERS:
        raise VideoError(f"There is no decoder {decoder!r}; choose one of {', '.join(DECODERS)}.")
    choose = partial(choose_frames, num_frames=num_frames, fps=fps, force_sample=force_sample)
    name, result = _read(os.fspath(path), choose, decoder, progress)
    return Video(result.frames, result.times, result.duration, name, result.total, result.rate)


def time_text(video: Video) -> str:
    """What LLaVA-Video models are told before the question: the video's length and the time of each frame."""
    times = ",".join(f"{time:.2f}s" for time in video.times)
    return (
        f"The video lasts for {video.duration:.2f} seconds, and {len(video.times)} frames are uniformly "
        f"sampled from it. These frames are located at {times}."
        "Please answer the following questions related to this video."
    )


def _read(path, choose, decoder, progress):
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
    container = check_container(path)
    if decoder == "decord" and not have_decord():
        raise VideoError("decord is not installed; install it, or leave the choice of decoder at auto.")
    if decoder != "pyav" and have_decord():
        try:
            return "decord", read_decord(path, choose, progress, container=container)
        except DecoderFailed as error:
            if decoder == "decord":
                raise VideoError(f"decord cannot read {path} ({error}); use the decoder auto.") from error
    return "pyav", read_pyav(path, choose, progress)
