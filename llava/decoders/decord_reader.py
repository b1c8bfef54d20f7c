"""Reads chosen frames with decord, in a child process that is killed when it stops answering."""

import importlib.util
import json
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from llava.decoders.base import Choose, DecoderFailed, Progress, Reading, reading

WORKER = Path(__file__).with_name("decord_worker.py")
# decord 0.6 seeks to wrong frames in these, and says nothing
WRONG_FRAMES = {"mpegts", "mpeg"}
SILENCE = 120.0  # seconds without a byte before the child is given up


def have_decord() -> bool:
    """Is the decord package installed?"""
    return importlib.util.find_spec("decord") is not None


def read_decord(
    path: str, choose: Choose, progress: Progress | None = None, *, container: str = ""
) -> Reading:
    """Frames that `choose` names; container is the file's format in FFmpeg's words.

    Raises DecoderFailed when decord fails, crashes, hangs or would pick wrong frames.
    """
    if container in WRONG_FRAMES:
        raise DecoderFailed(f"it picks wrong frames of {container} files")
    command = [sys.executable, str(WORKER), path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as child:
        try:
            pipe = _Pipe(child.stdout, SILENCE)
            index = pipe.line()
            times = np.array(index["times"], np.float64)
            rate = index["rate"]
            if not len(times) or not np.isfinite(times).all() or not rate > 0 or (np.diff(times) < 0).any():
                raise DecoderFailed("decord gives no usable frame times")
            times -= times[0]
            indices = choose(times, rate)
            wanted = np.unique(indices)
            child.stdin.write(json.dumps(wanted.tolist()).encode() + b"\n")
            size = pipe.line()
            frames = np.empty((len(wanted), size["height"], size["width"], 3), np.uint8)
            for number, frame in enumerate(frames):
                pipe.fill(memoryview(frame).cast("B"))
                if progress:
                    progress(number + 1, len(wanted))
        except BrokenPipeError as error:
            raise DecoderFailed("decord stopped") from error
        finally:
            child.kill()
    return reading(frames, indices, times, rate)


class _Pipe:
    """Reads lines and blocks of bytes, and gives up when nothing comes for too long."""

    def __init__(self, raw, silence: float):
        self.raw, self.silence = raw, silence

    def fill(self, view: memoryview) -> None:
        filled = 0
        while filled < len(view):
            deadline = time.monotonic() + self.silence
            if not select.select([self.raw], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise DecoderFailed(f"decord was silent for {self.silence:.0f} seconds")
            count = self.raw.readinto(view[filled:])
            if not count:
                raise DecoderFailed("decord stopped")
            filled += count

    def line(self) -> dict:
        text, byte = bytearray(), bytearray(1)
        while byte != b"\n":
            self.fill(memoryview(byte))
            text += byte
        message = json.loads(text)
        if "error" in message:
            raise DecoderFailed(message["error"])
        return message
