"""A video file, or a folder of frames, as frames and times for a model: all at once, or one after another.

PyAV reads, Pillow what it cannot; decord only on request, and only what it is known to read as PyAV does. They run in
a process of their own with limits on its time and memory. Only the frames that are asked for are kept. A file that is
cut short is an error, never a shorter video.
"""

import importlib.util
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from llava.decoders.base import Choice, DecoderFailed, FrameSampler, Progress, VideoError
from llava.decoders.sampling import choose_frames, most_changed, thumbnail
from llava.decoders.worker_process import TimedOut, WorkerProcess, choose_frames_among, each_frame, read_frames

__all__ = ["DECODERS", "FrameStream", "Video", "VideoError", "load_video", "open_video", "time_text"]

DECODERS = ("auto", "decord", "pyav")
LOOKED_AT = 4  # times as many frames as are chosen by change


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
    by_change: bool = False,
    choose: FrameSampler | None = None,
) -> Video:
    """Reads the frames a model looks at.

    num_frames evenly over the whole video; with fps, one frame every 1/fps seconds, thinned evenly to
    num_frames only when there are more (or force_sample). repeat: a video of fewer frames gives some of them several
    times, as LLaVA-OneVision is evaluated; without it every frame once. decoder: "auto" and "pyav" are PyAV, and Pillow
    for animated WebP and AVIF; "decord" refuses what it is not known to read as PyAV does. A folder of .png/.jpg files
    is read as it is, at one frame a second. progress(done, total) is called for each frame. time_limit: seconds after
    which decoding is stopped. Frames larger than 4K (4096x2304 pixels) are averaged down by a whole factor. by_change:
    the num_frames in which the most changes (see `most_changed`), out of four times as many evenly, which are decoded
    first; each once. choose: another way to choose frames, (times of all, rate) -> indices, in the place of all that is
    said about it here.
    Raises VideoError, one sentence, when the video is missing, empty, cut short or no video at all, when its
    decoding crashes or takes too long or more than 4 GiB of memory, or when a setting makes no sense.
    """
    if choose is None:
        choose = _frame_sampler(num_frames, fps, force_sample, repeat, decoder, time_limit)
        if by_change:
            choose = _sampler_by_change(path, num_frames, decoder=decoder, time_limit=time_limit)
    deadline = time.monotonic() + time_limit
    with _as_video_error(path, decoder, time_limit), ExitStack() as stack:
        worker, name, choice = _start(os.fspath(path), "read", decoder, choose, deadline, stack)
        frames, choice = read_frames(worker, choice, choose, progress)
    return Video(frames, choice.chosen_times, choice.duration, name, len(choice.times), choice.rate)


class FrameStream:
    """The chosen frames of one video, each decoded when it is asked for; made by `open_video`.

    Iterating, once, gives (H,W,3) uint8 RGB frames and raises VideoError as `load_video` does. times: (T,) seconds of
    the frames; duration, total_frames, rate and decoder as in `Video`.
    """

    def __init__(self, choice: Choice, frames: Iterable[np.ndarray], decoder: str, worker: WorkerProcess):
        self.times, self.duration, self.rate = choice.chosen_times, choice.duration, choice.rate
        self.total_frames, self.decoder = len(choice.times), decoder
        self._repeats = np.unique(choice.indices, return_counts=True)[1]
        self._frames, self._worker = frames, worker

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame, repeats in zip(self._frames, self._repeats, strict=True):
            for _ in range(repeats):
                paused = time.monotonic()
                yield frame
                # its time is that of decoding, not of what becomes of the frames
                self._worker.deadline += time.monotonic() - paused

    def read(self) -> Video:
        """All frames that are still to come, as `load_video` gives them."""
        return Video(np.stack(list(self)), self.times, self.duration, self.decoder, self.total_frames, self.rate)

    def stop(self) -> None:
        """Ends the decoder; a thread that waits for a frame gets an error."""
        self._worker.kill()


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
    by_change: bool = False,
    max_seconds: float = float("inf"),
    max_frames: float = float("inf"),
    stopped: threading.Event | None = None,
) -> Iterator[FrameStream]:
    """The frames that `load_video` reads, one after another: no more than one is held.

    Arguments and errors as there. time_limit: seconds of decoding. max_seconds, max_frames: of the whole video; a
    longer one is refused before a frame is decoded. The decoder is stopped when the context ends, whatever was read by
    then, and when `stopped` is set, which is a VideoError for whoever waits for a frame.
    """
    choose = _frame_sampler(num_frames, fps, force_sample, repeat, decoder, time_limit)
    path = os.fspath(path)
    if by_change:
        limits = {"max_seconds": max_seconds, "max_frames": max_frames, "stopped": stopped}
        choose = _sampler_by_change(path, num_frames, decoder=decoder, time_limit=time_limit, **limits)

    with ExitStack() as stack:
        with _as_video_error(path, decoder, time_limit):
            deadline = time.monotonic() + time_limit
            worker, name, choice = _start(path, "index", decoder, choose, deadline, stack, stopped=stopped)
            if choice.duration > max_seconds:
                raise VideoError(
                    f"The video lasts {choice.duration:.0f} s and the limit is {max_seconds:g} s; cut out the part you "
                    "want to ask about."
                )
            if len(choice.times) > max_frames:
                raise VideoError(
                    f"The video has {len(choice.times)} frames and the limit is {max_frames}; cut out the part you "
                    "want to ask about."
                )

        def frames() -> Iterator[np.ndarray]:
            with _as_video_error(path, decoder, time_limit):
                yield from each_frame(worker, choice, progress)

        yield FrameStream(choice, frames(), name, worker)


def _frame_sampler(num_frames, fps, force_sample, repeat, decoder, time_limit) -> FrameSampler:
    """How frames are chosen; VideoError for settings that make no sense."""
    if decoder == "decord" and importlib.util.find_spec("decord") is None:
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


def _sampler_by_change(path: str | os.PathLike, num_frames: int, **settings) -> FrameSampler:
    """Takes the frames of a video in which the most changes. settings: of `open_video`, which looks for them."""
    evenly = {"num_frames": LOOKED_AT * num_frames, "repeat": False}
    with open_video(path, **evenly, **settings) as frames:
        picked = most_changed(np.stack([thumbnail(frame) for frame in frames]), frames.times, num_frames)
    return lambda times, rate: choose_frames(times, rate, **evenly)[picked]


@contextmanager
def _as_video_error(path: str | os.PathLike, decoder: str, time_limit: float) -> Iterator[None]:
    """VideoError for what goes wrong with a decoder inside."""
    try:
        yield
    except TimedOut as error:
        raise VideoError(
            f"Reading {path} was stopped after {time_limit:g} seconds; give a shorter or smaller video, or a "
            "higher time_limit."
        ) from error
    except DecoderFailed as error:
        if decoder == "decord":
            raise VideoError(f"decord cannot read {path} ({error}); use the decoder auto.") from error
        raise VideoError(f"The decoder gave up on {path} ({error}); convert it to MP4 with H.264.") from error


def time_text(video: Video) -> str:
    """What LLaVA-Video models are told before the question: the video's length and the time of each frame."""
    times = ",".join(f"{time:.2f}s" for time in video.times)
    return (
        f"The video lasts for {video.duration:.2f} seconds, and {len(video.times)} frames are uniformly "
        f"sampled from it. These frames are located at {times}."
        "Please answer the following questions related to this video."
    )


def check_path(path: str) -> None:
    """Raises VideoError when there is nothing that may be read."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # also a circle of links, a name too long or with a NUL
        raise VideoError(f"There is no video at {path}; check the path.") from error
    folder = stat.S_ISDIR(found.st_mode)
    if not folder and not stat.S_ISREG(found.st_mode):
        raise VideoError(f"{path} is no regular file; give a video file or a folder of pictures.")
    if not os.access(path, os.R_OK | os.X_OK if folder else os.R_OK):
        raise VideoError(f"{path} may not be read; change its permissions or give another video.")
    if not folder and found.st_size == 0:
        raise VideoError(f"{path} is empty; copy or download it again.")


def _start(
    path: str,
    task: str,
    decoder: str,
    choose: FrameSampler,
    deadline: float,
    stack: ExitStack,
    *,
    stopped: threading.Event | None = None,
) -> tuple[WorkerProcess, str, Choice]:
    """(a process that is about to send the chosen frames, the decoder's name, the choice); the stack ends it."""
    check_path(path)
    limits = {"deadline": deadline, "stopped": stopped}
    worker = stack.enter_context(WorkerProcess("judge" if decoder == "decord" else task, path, **limits))
    message = worker.line()
    choice = choose_frames_among(worker, message, choose)
    if decoder != "decord" or message["decoder"] == "folder":
        worker.send(choice.wanted.tolist())
        return worker, message["decoder"], choice
    worker.kill()
    worker = stack.enter_context(WorkerProcess("decord", path, **limits))
    worker.send([choice.wanted.tolist(), len(choice.times)])
    return worker, "decord", choice
