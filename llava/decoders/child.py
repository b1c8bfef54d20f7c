"""Decoders as child processes: they can hang or crash, and are then killed without harm to the caller.

A worker writes lines of JSON: {"count", "rate"} and as many float64 times in seconds, to be answered with a
line of frame numbers; {"restart"} when it starts over with the same frames; {"height", "width"} and one
frame's bytes; {"refused": sentence} for a video that cannot be used; {"error": reason} when this decoder
cannot read it; {"defect": traceback} for a mistake of the program.
"""

import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llava.decoders.base import Choice, Choose, DecoderFailed, Progress, Reading, VideoError, reading

TICK = 0.2  # seconds after which a wait looks whether it was stopped
MOST_BYTES = 2**33  # of frames in memory; 64 frames of 8K video are 6.4 GB


class TimedOut(DecoderFailed):
    """The time for the whole video is over."""


class Child:
    """A worker process reading one video, as a context manager; it is killed at the end in any case.

    silence: seconds without a byte after which it is given up, None for as long as there is time.
    deadline: `time.monotonic` at which the time is over. stopped: whoever waits gets DecoderFailed once it is set.
    """

    stopped: threading.Event | None = None

    def __init__(self, worker: Path, path: str, *, silence: float | None, deadline: float):
        self.name, self.silence, self.deadline = worker.stem.removesuffix("_worker"), silence, deadline
        self.process = subprocess.Popen(
            [sys.executable, str(worker), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def __enter__(self) -> "Child":
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
            if not self._wait(patience):
                if patience == left:
                    raise TimedOut(f"{self.name} took too long")
                raise DecoderFailed(f"{self.name} was silent for {self.silence:.0f} seconds")
            count = self.process.stdout.readinto(view[filled:])
            if not count:
                raise DecoderFailed(f"{self.name} stopped")
            filled += count

    def _wait(self, seconds: float) -> bool:
        """Is there something to read within so many seconds?"""
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
            raise RuntimeError(f"The {self.name} worker failed.\n{message['defect']}")
        return message

    def kill(self) -> None:
        """Ends the process; whoever waits for it in another thread gets DecoderFailed."""
        self.process.kill()

    def send(self, message: object) -> None:
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError as error:
            raise DecoderFailed(f"{self.name} stopped") from error


def choose_among(child: Child, message: dict, choose: Choose) -> Choice:
    """Takes the times that a {"count", "rate"} announces and answers with the frames that `choose` names."""
    times, rate = _times(child, message["count"]), message["rate"]
    if not len(times) or not np.isfinite(times).all() or not rate > 0 or (np.diff(times) < 0).any():
        raise DecoderFailed(f"{child.name} gives no usable frame times")
    times -= times[0]
    choice = Choice(choose(times, rate), times, rate)
    child.send(choice.wanted.tolist())
    return choice


def read_frames(child: Child, choose: Choose, progress: Progress | None) -> Reading:
    """The frames that `choose` names, as the worker sends them.

    Raises DecoderFailed when it stops, hangs or has no usable times; VideoError when the frames are too large.
    """
    frames, filled, wanted = None, 0, np.empty(0, int)
    while frames is None or filled < len(wanted):
        message = child.line()
        if "count" in message:
            choice = choose_among(child, message, choose)
            wanted, filled = choice.wanted, 0
        elif "restart" in message:
            filled = 0
        else:
            shape = message["height"], message["width"], 3
            if frames is None or len(frames) != len(wanted) or frames.shape[1:] != shape:
                frames = _room(len(wanted), shape)
            child.fill(memoryview(frames[filled]).cast("B"))
            filled += 1
            if progress:
                progress(filled, len(wanted))
    return reading(frames, choice)


def each_frame(child: Child, choice: Choice) -> Iterator[np.ndarray]:
    """The distinct frames of a choice, (H,W,3) uint8 each, one at a time; the errors of `read_frames`.

    Of a worker that starts over, what was handed out before is skipped: the frames are the same.
    """
    handed = coming = 0
    while handed < len(choice.wanted):
        message = child.line()
        if "restart" in message:
            coming = 0
            continue
        if "height" not in message:
            raise DecoderFailed(f"{child.name} takes back which frames there are")
        frame = _room(1, (message["height"], message["width"], 3))[0]
        child.fill(memoryview(frame).cast("B"))
        coming += 1
        if coming > handed:
            handed = coming
            yield frame


def _times(child: Child, count: int) -> np.ndarray:
    times = np.empty(count, np.float64)
    child.fill(memoryview(times).cast("B") if count else memoryview(b""))
    return times


def _room(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    size = count * shape[0] * shape[1] * shape[2]
    if size > MOST_BYTES:
        raise VideoError(
            f"{count} frames of {shape[1]}x{shape[0]} take {size / 2**30:.1f} GiB of memory, which is more than "
            f"{MOST_BYTES / 2**30:.0f} GiB; ask for fewer frames or scale the video down."
        )
    return np.empty((count, *shape), np.uint8)
