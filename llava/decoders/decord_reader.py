"""Reads chosen frames with decord, in a child process that is killed when it stops answering."""

import importlib.util
from pathlib import Path

from llava.decoders.base import Choose, DecoderFailed, Progress, Reading
from llava.decoders.child import Child, read_frames

WORKER = Path(__file__).with_name("decord_worker.py")
# decord 0.6 seeks to wrong frames in these, and says nothing
WRONG_FRAMES = {"mpegts", "mpeg"}
SILENCE = 120.0  # seconds without a byte before the child is given up


def have_decord() -> bool:
    """Is the decord package installed?"""
    return importlib.util.find_spec("decord") is not None


def read_decord(
    path: str, choose: Choose, progress: Progress | None = None, *, container: str = "", deadline: float
) -> Reading:
    """Frames that `choose` names; container is the file's format in FFmpeg's words.

    Raises DecoderFailed when decord fails, crashes, hangs or would pick wrong frames.
    """
    with decord_child(path, container=container, deadline=deadline) as child:
        return read_frames(child, choose, progress)


def decord_child(path: str, *, container: str, deadline: float) -> Child:
    """The process that runs decord; DecoderFailed where it would pick wrong frames."""
    if container in WRONG_FRAMES:
        raise DecoderFailed(f"it picks wrong frames of {container} files")
    return Child(WORKER, path, silence=SILENCE, deadline=deadline)
