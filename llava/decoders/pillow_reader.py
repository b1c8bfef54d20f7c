"""Reads with Pillow: a folder of pictures at one frame a second, and animations that FFmpeg does not read."""

import os
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from llava.decoders.base import Ask, VideoError, downscale_factor
from llava.decoders.sandbox import open_regular

SUFFIXES = {".png", ".jpg", ".jpeg"}
FORMATS = ("PNG", "JPEG")  # of the frames of a folder
PICTURES = (*FORMATS, "WEBP", "BMP", "GIF")  # of single pictures
# markers of a JPEG file behind their 0xff: the end, a segment of applications, entropy-coded data
END, APP2, SCAN = b"\xd9", b"\xe2", b"\xda"
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # that ends such data
PADDING = b"\xff\0\r\n"  # between two pictures
LARGEST_PHOTO = 2**26  # bytes of it that are looked at
RATE = 1.0  # a folder has no clock: its pictures are taken as one second apart


def is_animation(file: BinaryIO) -> bool:
    """WebP, or an AVIF sequence, by the first bytes?"""
    file.seek(0)
    head = file.read(12)
    return (head[:4] == b"RIFF" and head[8:] == b"WEBP") or head[4:] in (b"ftypavis", b"ftypavif")


def is_photo(file: BinaryIO) -> bool:
    """A JPEG file that holds more than its picture and is no film of pictures one behind another?

    Cameras add a second view, a preview, a gain map (MPF, CIPA DC-007), or what they know behind the picture's end.
    """
    file.seek(0)
    if file.read(3) != b"\xff\xd8\xff":
        return False
    file.seek(0)
    data, place = file.read(LARGEST_PHOTO), 2
    while (kind := data[place + 1 : place + 2]) != END:
        if data[place : place + 1] != b"\xff" or place + 4 > len(data):
            return False
        if kind == APP2 and data[place + 4 : place + 8] == b"MPF\0":
            return True
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if kind == SCAN:
            place = found.start() if (found := MARKER.search(data, place)) else len(data)
    behind = data[place + 2 :].lstrip(PADDING)
    return bool(behind) and not behind.startswith(b"\xd8\xff")


def read_animation(path: str, file: BinaryIO, ask: Ask) -> Iterator[np.ndarray]:
    """Frames (H,W,3) that `ask` names, of a WebP or AVIF file by the times that it states, or a photo's one."""
    file.seek(0)
    try:
        with Image.open(file, formats=("WEBP", "AVIF", "JPEG")) as image:
            factor = downscale_factor(path, *image.size)
            durations = []
            for number in range(1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)):
                image.seek(number)
                image.load()
                durations.append(image.info.get("duration", 0) / 1000)
            times, last = np.cumsum([0.0, *durations[:-1]]), durations[-1]
            if not times[-1] > 0:
                times, last = np.arange(len(times)) / 10.0, 0.1  # browsers take so long where nothing is stated
            for number in ask(times, len(times) / (times[-1] + last)):
                image.seek(number)
                yield np.asarray(upright(image).convert("RGB").reduce(factor))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise VideoError(f"{path} is an animation or photo that cannot be read; convert it to MP4 or PNG.") from error


def read_folder(path: str, ask: Ask) -> Iterator[np.ndarray]:
    """Pictures (H,W,3) that `ask` names, in natural order of their names (2.png before 10.png)."""
    files = picture_files(path)
    if not files:
        raise VideoError(f"The folder {path} holds no .png or .jpg pictures; give it frames or name a video file.")
    first = None
    for number in ask(np.arange(len(files)) / RATE, RATE):
        picture, size = read_picture(files[number])
        first = first or (files[number].name, size)
        if size != first[1]:
            raise VideoError(
                f"{files[number]} is {size[0]}x{size[1]} and {first[0]} is "
                f"{first[1][0]}x{first[1][1]}; make all pictures of the folder the same size."
            )
        yield picture


def picture_files(path: str) -> list[Path]:
    """The pictures of a folder in natural order."""
    return sorted((file for file in Path(path).iterdir() if file.suffix.lower() in SUFFIXES), key=natural)


def natural(file: Path) -> list:
    """By what files are ordered: their names, numbers in them by value."""
    parts = re.split(r"(\d+)", file.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def upright(image: Image.Image) -> Image.Image:
    """The picture as it is to be seen; as it is stored where its EXIF is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error):
        return image


def read_picture(path: Path, formats: tuple[str, ...] = FORMATS) -> tuple[np.ndarray, tuple[int, int]]:
    """((H, W, 3) uint8 pixels, (width, height) of the file); a large picture is averaged down.

    Raises VideoError for what is no such file, is too large, or has none of Pillow's formats named.
    """
    with os.fdopen(open_regular(str(path)), "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=formats) as image:
                factor = downscale_factor(str(path), *image.size)
                seen = upright(image)
                if seen.mode.startswith("I"):  # 16 bits of grey, of which conversion would make white
                    seen = seen.point(lambda grey: grey / 256).convert("L")
                return np.asarray(seen.convert("RGB").reduce(factor)), seen.size
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise VideoError(f"The picture {path} is too large; scale it down first.") from error
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise VideoError(f"The picture {path} cannot be read; replace or remove it.") from error
