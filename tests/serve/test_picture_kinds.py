"""Pictures as cameras and instruments write them: as videos of one frame, in folders, and alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from llava.decoders.pillow_reader import PICTURES, read_picture
from llava.video import load_video


def readings(path: Path) -> list[np.ndarray]:
    """The picture (H,W,3) as a video and as an image."""
    frames = load_video(path, num_frames=4, repeat=False).frames
    assert len(frames) == 1
    return [frames[0], read_picture(path, PICTURES)[0]]


def turned_picture(path: Path, orientation: int, **settings) -> np.ndarray:
    """Writes a picture as a camera held so does; how it is to be seen."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = orientation, "a camera"
    stored = Image.new("RGB", (48, 32), "red")
    stored.paste("blue", (0, 0, 16, 16))
    stored.save(path, exif=exif, **settings)
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_of_a_turned_camera_are_upright(tmp_path, orientation):
    path = tmp_path / ("a.png" if orientation % 2 else "a.jpg")
    upright = turned_picture(path, orientation, quality=95, subsampling=0)
    for shown in readings(path):
        assert shown.shape == upright.shape and np.abs(shown.astype(int) - upright).max() <= 3


@pytest.mark.parametrize("suffix", ["webp", "avif", "folder"])
def test_turned_pictures_that_pillow_reads(tmp_path, suffix):
    upright = turned_picture(tmp_path / ("a.png" if suffix == "folder" else f"a.{suffix}"), 6)
    assert upright.shape == (48, 32, 3)
    Image.new("RGB", (32, 48)).save(tmp_path / "b.png")  # as large as what is seen of the other one
    shown = load_video(tmp_path if suffix == "folder" else tmp_path / f"a.{suffix}", num_frames=1).frames[0]
    assert np.abs(shown.astype(int) - upright).max() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_notes_of_a_camera_do_no_harm(tmp_path, suffix):
    Image.new("RGB", (48, 32), "red").save(tmp_path / f"a.{suffix}", exif=b"Exif\0\0MX\0*\0\0\0\x08\0\1\1\x12")
    assert read_picture(tmp_path / f"a.{suffix}", PICTURES)[0].shape == (32, 48, 3)


def test_pictures_with_notes_that_pyav_does_not_know(tmp_path):
    turned_picture(tmp_path / "a.tif", 1)
    assert load_video(tmp_path / "a.tif", num_frames=1).frames.shape == (1, 32, 48, 3)


def test_sixteen_bits_of_grey_are_not_white(tmp_path):
    grey = np.linspace(0, 2**16 - 1, 32 * 48).reshape(32, 48).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    for shown in readings(tmp_path / "a.png"):
        assert np.abs(shown.astype(int) - (grey // 257)[..., None]).max() <= 2
