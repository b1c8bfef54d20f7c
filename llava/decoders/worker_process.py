"""Decoders as worker processes: they can hang or crash, and are then killed without harm to the caller.

A worker writes lines of JSON: {"count", "rate", "seconds", "decoder"} and as many float64 times in seconds, to be
answered with a line of frame numbers, and again when it starts over with other times; {"height", "width"} and one
frame's bytes; {"refused": sentence} for a video that cannot be used; {"error": reason} when this decoder cannot read
it; {"defect": traceback} for a mistake of the program. Of a source that goes on each frame has its "time" in seconds,
or null; {"note": sentence} tells what was passed over, and {"over"} that no more comes.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llava.decoders.base import Choice, DecoderFailed, FrameSampler, Progress, VideoError, plausible_times

WORKER = Path(__file__).with_name("worker.py")
TICK = 0.2  # seconds after which a wait looks whether it was stopped
MOST_BYTES = 2**32  # of frames in memory; 128 frames of 4K video are 3.4 GiB
MOST_FRAMES = 2**25  # of a video: six days at 60 a second
SILENCE = 120.0  # seconds without a byte before decord is given up


class TimedOut(DecoderFailed):
    """The time for the whole video is over."""


class WorkerProcess:
    """A process that reads one video, as a context manager; it is killed at the end in any case.

    task: as `llava.decoders.worker` names them. deadline: `time.monotonic` at which the time is over. stopped: whoever
    waits gets DecoderFailed once it is set. pass_fds: descriptors that it may use.
    """

    def __init__(
        self,
        task: str,
        path: str,
        *,
        deadline: float,
        stopped: threading.Event | None = None,
        pass_fds: Sequence[int] = (),
    ):
        self.stopped = stopped
        self.name = "decord" if task == "decord" else "The decoder"
        self.silence, self.deadline = SILENCE if task == "decord" else None, deadline
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), task, path, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=pass_fds,
        )

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        with self.process:  # closes the pipes and waits
            pass

    def fill(self, view: memoryview) -> None:
        """Reads until the view is full."""
        filled = 0
        while filled < len(view):
            left = self.deadline - time.monotonic()
            patience = left if self.silence is None else min(left, self.silence)
            if not self.wait(patience):
                if patience == left:
                    raise TimedOut(f"{self.name} took too long")
                raise DecoderFailed(f"{self.name} was silent for {self.silence:.0f} seconds")
            count = self.process.stdout.readinto(view[filled:])
            if not count:
                raise DecoderFailed(f"{self.name} stopped")
            filled += count

    def wait(self, seconds: float) -> bool:
        """Is there something to read within so many seconds? DecoderFailed once it was stopped."""
        end = time.monotonic() + seconds
        while True:
            if self.stopped is not None and self.stopped.is_set():
                raise DecoderFailed(f"{self.name} was stopped")
            left = max(0.0, end - time.monotonic())
            if select.select([self.process.stdout], [], [], left if self.stopped is None else min(left, TICK))[0]:
                return True
            if not left:
                return False

    def line(self) -> dict:
        """The next message; the errors among them are raised."""
        text, byte = bytearray(), bytearray(1)
        while byte != b"\n":
            self.fill(memoryview(byte))
            text += byte
        try:
            message = json.loads(text)
        except ValueError as error:
            raise DecoderFailed(f"{self.name} sent something else than frames") from error
        if "refused" in message:
            raise VideoError(message["refused"])
        if "error" in message:
            raise DecoderFailed(message["error"])
        if "defect" in message:
            raise RuntimeError(f"{self.name} failed.\n{message['defect']}")
        return message

    def kill(self) -> None:
        """Ends the process; whoever waits for it in another thread gets DecoderFailed."""
        self.process.kill()

    def send(self, message: object) -> None:
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError as error:
            raise DecoderFailed(f"{self.name} stopped") from error


def choose_frames_among(worker: WorkerProcess, message: dict, choose: FrameSampler) -> Choice:
    """Takes the times that a {"count", …} announces, and what `choose` names among them."""
    count, rate = message["count"], message["rate"]
    if not 0 < count <= MOST_FRAMES:
        raise DecoderFailed(f"{worker.name} counts {count} frames")
    times = np.empty(count, np.float64)
    worker.fill(memoryview(times).cast("B"))
    if not plausible_times(times, rate, message["seconds"]):
        raise DecoderFailed(f"{worker.name} gives no usable frame times")
    times -= times[0]
    return Choice(choose(times, rate), times, rate)


def read_frames(
    worker: WorkerProcess, choice: Choice, choose: FrameSampler, progress: Progress | None
) -> tuple[np.ndarray, Choice]:
    """(frames (K,H,W,3), the choice) as the worker sends them; another choice when it comes with other times.

    Raises DecoderFailed when it stops, hangs or has no usable times; VideoError when the frames are too large.
    """
    frames, filled = None, 0
    while frames is None or filled < len(choice.wanted):
        message = worker.line()
        if "count" in message:
            choice, frames, filled = choose_frames_among(worker, message, choose), None, 0
            worker.send(choice.wanted.tolist())
            continue
        shape = message["height"], message["width"], 3
        if frames is None:
            frames = _frame_buffer(len(choice.wanted), shape)
        if frames.shape[1:] != shape:
            raise DecoderFailed(f"{worker.name} changes the size of its pictures")
        worker.fill(memoryview(frames[filled]).cast("B"))
        filled += 1
        if progress:
            progress(filled, len(choice.wanted))
    _, repeated = np.unique(choice.indices, return_inverse=True)
    return frames if len(frames) == len(choice.indices) else frames[repeated], choice


def each_frame(worker: WorkerProcess, choice: Choice, progress: Progress | None) -> Iterator[np.ndarray]:
    """The distinct frames of a choice, (H,W,3) uint8 each, one at a time; the errors of `read_frames`."""
    for done in range(1, len(choice.wanted) + 1):
        message = worker.line()
        if "count" in message:
            raise DecoderFailed(f"{worker.name} takes back which frames there are")
        frame = _frame_buffer(1, (message["height"], message["width"], 3))[0]
        worker.fill(memoryview(frame).cast("B"))
        if progress:
            progress(done, len(choice.wanted))
        yield frame


def _frame_buffer(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    size = count * shape[0] * shape[1] * shape[2]
    if size > MOST_BYTES:
        raise VideoError(
            f"{count} frames of {shape[1]}x{shape[0]} take {size / 2**30:.1f} GiB of memory, which is more than "
            f"{MOST_BYTES / 2**30:.0f} GiB; ask for fewer frames, or read them one after another with open_video."
        )
    return np.empty((count, *shape), np.uint8)
