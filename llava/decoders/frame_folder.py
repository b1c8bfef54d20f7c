"""Reads a folder of pictures as a video at one frame a second."""

import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from llava.decoders.base import Choose, Progress, Reading, VideoError, reading

SUFFIXES = {".png", ".jpg", ".jpeg"}
RATE = 1.0  # a folder has no clock: its pictures are taken as one second apart


def read_folder(path: str, choose: Choose, progress: Progress | None = None) -> Reading:
    """Pictures that `choose` names, in natural order of their names (2.png before 10.png)."""
    files = sorted((file for file in Path(path).iterdir() if file.suffix.lower() in SUFFIXES), key=_natural)
    if not files:
        raise VideoError(f"The folder {path} holds no .png or .jpg pictures; give it frames or name a video file.")
    times = np.arange(len(files)) / RATE
    indices = choose(times, RATE)
    wanted = np.unique(indices)
    frames = None
    for number, index in enumerate(wanted):
        picture = _picture(files[index])
        if frames is None:
            frames = np.empty((len(wanted), *picture.shape), np.uint8)
        elif picture.shape != frames.shape[1:]:
            raise VideoError(
                f"{files[index]} is {picture.shape[1]}x{picture.shape[0]} and {files[wanted[0]].name} is "
                f"{frames.shape[2]}x{frames.shape[1]}; make all pictures of the folder the same size."
            )
        frames[number] = picture
        if progress:
            progress(number + 1, len(wanted))
    return reading(frames, indices, times, RATE)


def _natural(file: Path) -> list:
    parts = re.split(r"(\d+)", file.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _picture(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise VideoError(f"The picture {file} cannot be read; replace or remove it.") from error
