"""Pictures as cameras and instruments write them: as videos of one frame, in folders, and alone."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from benchmarks.odd_files import AV1
from llava.decoders.pillow_reader import PICTURES, read_picture
from llava.video import VideoError, load_video


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


def box(kind: bytes, *parts: bytes, version: int | None = None) -> bytes:
    body = b"".join(parts) if version is None else struct.pack(">I", version << 24) + b"".join(parts)
    return struct.pack(">I", len(body) + 8) + kind + body


def tiled_photo() -> bytes:
    """Two equal tiles side by side, as phones store a photo, though in AV1."""
    with av.open(str(AV1 / "av1.mp4")) as film:
        stream = film.streams.video[0]
        codec, data = bytes(stream.codec_context.extradata), bytes(next(film.demux(stream)))
    items = [struct.pack(">HH4s", item, 0, b"grid" if item == 3 else b"av01") for item in (1, 2, 3)]
    grid = struct.pack(">BBBBHH", 0, 0, 0, 1, 160, 48)
    sizes = [box(b"ispe", struct.pack(">II", width, 48), version=0) for width in (80, 160)]
    uses = struct.pack(">I HBBB HBBB HBB", 3, 1, 2, 1, 2, 2, 2, 1, 2, 3, 1, 3)
    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")

    def meta(start: int) -> bytes:
        places = [(item, 0, 0, 1, start + (item - 1) * len(data), len(data)) for item in (1, 2)]
        places += [(3, 1, 0, 1, 0, len(grid))]
        return box(
            b"meta",
            box(b"hdlr", struct.pack(">I4s12x", 0, b"pict"), b"\0", version=0),
            box(b"pitm", struct.pack(">H", 3), version=0),
            box(b"iinf", struct.pack(">H", 3), *(box(b"infe", i, b"\0", version=2) for i in items), version=0),
            box(b"iloc", b"\x44\0\0\3", *(struct.pack(">HHHHII", *place) for place in places), version=1),
            box(b"iref", box(b"dimg", struct.pack(">HHHH", 3, 2, 1, 2)), version=0),
            box(b"iprp", box(b"ipco", box(b"av1C", codec), *sizes), box(b"ipma", uses, version=0)),
            box(b"idat", grid),
            version=0,
        )

    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", data, data)


def test_a_tile_of_a_photo_is_not_taken_for_the_photo(tmp_path):
    (tmp_path / "a.heic").write_bytes(tiled_photo())
    with av.open(str(tmp_path / "a.heic")) as photo:
        assert len(photo.streams.video) == 2
    with pytest.raises(VideoError, match="tiles of a photo"):
        load_video(tmp_path / "a.heic", num_frames=1)
