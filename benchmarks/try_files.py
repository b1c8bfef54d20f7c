"""Reads odd video files and says in one line what came of each; the outcomes of tests/fuzz and reliability.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.odd_files import TURNS, Writer, number
from llava.video import VideoError, load_video

SHOWN = 8  # frames asked for


@dataclass(frozen=True)
class Outcome:
    """read: frames of the video, None when it was refused. right: every frame shown is the one asked for.

    said: the sentence of a refusal, its path left out.
    """

    read: int | None
    right: bool
    decoder: str
    said: str

    @property
    def words(self) -> str:
        if self.read is None:
            return f"refused: {self.said}"
        return f"{self.read} frames, {'the right ones' if self.right else 'WRONG ONES'}, {self.decoder}"


def attempt(path: Path, *, decoder: str = "auto", turns: int = 0, rate: float | None = None, first: int = 0) -> Outcome:
    """What `load_video` makes of a file written by odd_files; anything but a video or a VideoError is raised.

    first: number of the first frame shown. rate: frames a second of a cut file, whose numbers then follow from their
    times; the last picture of such a file may be incomplete and is not looked at.
    """
    try:
        video = load_video(path, num_frames=SHOWN, decoder=decoder)
    except VideoError as error:
        text = str(error)
        if "\n" in text or not text.endswith("."):
            raise AssertionError(f"not one sentence: {text!r}") from error
        return Outcome(None, True, "", text.replace(str(path), path.name))
    wanted = np.linspace(0, video.total_frames - 1, SHOWN).astype(int)
    looked = np.ones(SHOWN, bool)
    if rate is not None:
        looked = wanted < video.total_frames - 1
        wanted = np.rint(video.times * rate).astype(int)
    shown = np.array([number(np.rot90(frame, -turns)) - first for frame in video.frames])
    return Outcome(video.total_frames, bool((shown == wanted)[looked].all()), video.decoder, "")


def try_file(folder: Path, label: str, file: str, write: Writer, **settings: object) -> Outcome:
    """Writes a file of odd_files into an empty folder and reads it."""
    folder.mkdir(parents=True)
    write(folder / file)
    return attempt(folder / file, turns=TURNS.get(label, 0), **settings)


def cut_file(
    folder: Path, file: str, write: Writer, *, rate: float, tenths: Sequence[int] = range(1, 10)
) -> list[Outcome]:
    """The same for a file of constant rate cut at tenths of its bytes."""
    folder.mkdir(parents=True)
    path = folder / file
    write(path)
    data = path.read_bytes()
    outcomes = []
    for tenth in tenths:
        path.write_bytes(data[: len(data) * tenth // 10])
        outcomes.append(attempt(path, rate=rate))
    return outcomes
