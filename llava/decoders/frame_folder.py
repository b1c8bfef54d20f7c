"""Reads a folder of pictures as a video at one frame a second."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from llava.decoders.base import Choice, Choose, Progress, Reading, VideoError, reading

SUFFIXES = {".png", ".jpg", ".jpeg"}
RATE = 1.0  # a folder has no clock: its pictures are taken as one second apart


def read_folder(path: str, choose: Choose, progress: Progress | None = None) -> Reading:
    """Pictures that `choose` names, in natural order of their names (2.png before 10.png)."""
    choice, pictures = open_folder(path, choose)
    frames, count = None, len(choice.wanted)
    for number, picture in enumerate(pictures):
        if frames is None:
            frames = np.empty((count, *picture.shape), np.uint8)
        frames[number] = picture
        if progress:
            progress(number + 1, count)
    return reading(frames, choice)


def open_folder(path: str, choose: Choose) -> tuple[Choice, Iterator[np.ndarray]]:
    """What `choose` chose, and these pictures (H,W,3), each once, read one at a time."""
    files = sorted((file for file in Path(path).iterdir() if file.suffix.lower() in SUFFIXES), key=_natural)
    if not files:
        raise VideoError(f"The folder {path} holds no .png or .jpg pictures; give it frames or name a video file.")
    times = np.arange(len(files)) / RATE
    choice = Choice(choose(times, RATE), times, RATE)
    return choice, _pictures([files[index] for index in choice.wanted])


def _pictures(files: list[Path]) -> Iterator[np.ndarray]:
    first = None
    for file in files:
        picture = _picture(file)
        first = picture.shape if first is None else first
        if picture.shape != first:
            raise VideoError(
                f"{file} is {picture.shape[1]}x{picture.shape[0]} and {files[0].name} is "
                f"{first[1]}x{first[0]}; make all pictures of the folder the same size."
            )
        yield picture


def _natural(file: Path) -> list:
    parts = re.split(r"(\d+)", file.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _picture(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise VideoError(f"The picture {file} cannot be read; replace or remove it.") from error
