"""A video file, or a folder of frames, as frames and times for a model: all at once, or one after another.

decord reads first, PyAV when decord is missing, fails, or the video is long; each in a process of its own
with a limit on its time. Only the frames that are asked for are kept. A file that is cut short is an error,
never a shorter video.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llava.decoders.base import Choice, Choose, DecoderFailed, Progress, Reading, VideoError
from llava.decoders.child import Child, TimedOut, choose_among, each_frame, read_frames
from llava.decoders.decord_reader import decord_child, have_decord, read_decord
from llava.decoders.frame_folder import open_folder, read_folder
from llava.decoders.sampling import choose_frames

__all__ = ["DECODERS", "FrameStream", "Video", "VideoError", "load_video", "open_video", "time_text"]

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
    repeat: bool = True,
    decoder: str = "auto",
    progress: Progress | None = None,
    time_limit: float = 600.0,
) -> Video:
    """Reads the frames a model looks at.

    num_frames evenly over the whole video; with fps, one frame every 1/fps seconds, thinned evenly to
    num_frames only when there are more (or force_sample). repeat: a video of fewer frames gives some of them several
    times, as LLaVA-OneVision is evaluated; without it every frame once. decoder: "auto", "decord" or "pyav"; a folder
    of .png/.jpg files is read as it is, at one frame a second. progress(done, total) is called for each frame.
    time_limit: seconds after which decoding is stopped.
    Raises VideoError, one sentence, when the video is missing, empty, cut short or no video at all, when its
    decoding crashes or takes too long, or when a setting makes no sense.
    """
    choose = _chooser(num_frames, fps, force_sample, repeat, decoder, time_limit)
    deadline = time.monotonic() + time_limit
    with _one_sentence(path, time_limit):
        name, result = _read(os.fspath(path), choose, decoder, progress, deadline)
    return Video(result.frames, result.times, result.duration, name, result.total, result.rate)


class FrameStream:
    """The chosen frames of one video, each decoded when it is asked for; made by `open_video`.

    Iterating, once, gives (H,W,3) uint8 RGB frames and raises VideoError as `load_video` does. times: (T,) seconds of
    the frames; duration, total_frames, rate and decoder as in `Video`.
    """

    def __init__(self, choice: Choice, frames: Iterable[np.ndarray], decoder: str, child: Child | None = None):
        self.times, self.duration, self.rate = choice.chosen_times, choice.duration, choice.rate
        self.total_frames, self.decoder = len(choice.times), decoder
        self._repeats = np.unique(choice.indices, return_counts=True)[1]
        self._frames, self._child = frames, child

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame, repeats in zip(self._frames, self._repeats, strict=True):
            for _ in range(repeats):
                paused = time.monotonic()
                yield frame
                if self._child:  # its time is that of decoding, not of what becomes of the frames
                    self._child.deadline += time.monotonic() - paused

    def stop(self) -> None:
        """Ends the decoder; a thread that waits for a frame gets an error."""
        if self._child:
            self._child.kill()


@contextmanager
def open_video(
    path: str | os.PathLike,
    *,
    num_frames: int = 32,
    fps: float | None = None,
    force_sample: bool = False,
    repeat: bool = True,
    decoder: str = "auto",
    progress: Progress | None = None,
    time_limit: float = 600.0,
) -> Iterator[FrameStream]:
    """The frames that `load_video` reads, one after another: no more than one is held.

    Arguments and errors as there. decoder "auto" is PyAV, since another decoder cannot take over in the middle.
    time_limit: seconds of decoding. The decoder is stopped when the context ends, whatever was read by then.
    """
    choose = _chooser(num_frames, fps, force_sample, repeat, decoder, time_limit)
    path = os.fspath(path)

    def told(frames: Iterable[np.ndarray], total: int) -> Iterator[np.ndarray]:
        with _one_sentence(path, time_limit):
            for done, frame in enumerate(frames, start=1):
                if progress:
                    progress(done, total)
                yield frame

    with ExitStack() as stack:
        with _one_sentence(path, time_limit):
            child, name = None, "folder"
            if _check_path(path):
                choice, frames = open_folder(path, choose)
            else:
                child, name = _decoder(path, decoder, time.monotonic() + time_limit, stack)
                choice = choose_among(child, child.line(), choose)
                frames = each_frame(child, choice)
        yield FrameStream(choice, told(frames, len(choice.wanted)), name, child)


def _chooser(num_frames, fps, force_sample, repeat, decoder, time_limit) -> Choose:
    """How frames are chosen; VideoError for settings that make no sense."""
    if decoder == "decord" and not have_decord():
        raise VideoError("decord is not installed; install it, or leave the choice of decoder at auto.")
    if num_frames < 1:
        raise VideoError(f"num_frames must be at least 1, but is {num_frames}; 16 to 64 are usual.")
    if fps is not None and not 0 < fps < float("inf"):
        raise VideoError(f"fps must be above 0, but is {fps}; 1 is usual.")
    if decoder not in DECODERS:
        raise VideoError(f"There is no decoder {decoder!r}; choose one of {', '.join(DECODERS)}.")
    if not time_limit > 0:
        raise VideoError(f"time_limit must be above 0, but is {time_limit}; 600 seconds are usual.")
    return partial(choose_frames, num_frames=num_frames, fps=fps, force_sample=force_sample, repeat=repeat)


@contextmanager
def _one_sentence(path: str | os.PathLike, time_limit: float) -> Iterator[None]:
    """VideoError for what goes wrong with a decoder inside."""
    try:
        yield
    except TimedOut as error:
        raise VideoError(
            f"Reading {path} was stopped after {time_limit:g} seconds; give a shorter or smaller video, or a "
            "higher time_limit."
        ) from error
    except DecoderFailed as error:
        raise VideoError(f"The decoder gave up on {path} ({error}); convert it to MP4 with H.264.") from error


def time_text(video: Video) -> str:
    """What LLaVA-Video models are told before the question: the video's length and the time of each frame."""
    times = ",".join(f"{time:.2f}s" for time in video.times)
    return (
        f"The video lasts for {video.duration:.2f} seconds, and {len(video.times)} frames are uniformly "
        f"sampled from it. These frames are located at {times}."
        "Please answer the following questions related to this video."
    )


def _check_path(path: str) -> bool:
    """Is it a folder? Raises VideoError when there is nothing that may be read."""
    if not os.path.exists(path):
        raise VideoError(f"There is no video at {path}; check the path.")
    try:
        if os.path.isdir(path):
            os.listdir(path)
            return True
        if os.path.getsize(path) == 0:
            raise VideoError(f"{path} is empty; copy or download it again.")
        with open(path, "rb"):
            return False
    except PermissionError as error:
        raise VideoError(f"{path} may not be read; change its permissions or give another video.") from error


def _decoder(path: str, decoder: str, deadline: float, stack: ExitStack) -> tuple[Child, str]:
    """A process that is about to send frame times, and the decoder's name; the stack ends it."""
    checker = stack.enter_context(Child(PYAV_WORKER, path, silence=None, deadline=deadline))
    found = checker.line()
    if decoder != "decord":
        checker.send("index")
        return checker, "pyav"
    try:
        return stack.enter_context(decord_child(path, container=found["container"], deadline=deadline)), "decord"
    except DecoderFailed as error:
        raise VideoError(f"decord cannot read {path} ({error}); use the decoder auto.") from error


def _read(path, choose, decoder, progress, deadline) -> tuple[str, Reading]:
    """(name of the decoder that read it, Reading)."""
    if _check_path(path):
        return "folder", read_folder(path, choose, progress)
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
