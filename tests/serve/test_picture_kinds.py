"""Pictures as cameras and instruments write them: as videos of one frame, in folders, and alone."""

import io
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


def jpeg(color: str, size: tuple[int, int] = (48, 32), **settings) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "JPEG", quality=95, **settings)
    return file.getvalue()


def of_two_views(second: Image.Image) -> bytes:
    """As cameras of two lenses write photos, and phones those with a gain map (MPF, CIPA DC-007)."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (48, 32), "red").save(file, "MPO", save_all=True, append_images=[second], exif=exif, quality=95)
    return file.getvalue()


RED, BLUE, PREVIEW = jpeg("red"), jpeg("blue"), jpeg("blue", (12, 8))


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (of_two_views(Image.new("RGB", (48, 32), "blue")), (48, 32, 3)),
        (of_two_views(Image.new("RGB", (12, 8), "blue")), (48, 32, 3)),
        (RED + b"a phone's own notes" + PREVIEW + b"SEFT", (32, 48, 3)),
        (jpeg("red", progressive=True) + b"notes" + BLUE, (32, 48, 3)),
        (RED + b"\0\0\0\x18ftypmp42" + b"a film of the moment" * 99, (32, 48, 3)),
    ],
    ids=["stereo", "preview", "notes", "progressive", "film"],
)
def test_a_photo_with_more_in_its_file_is_one_frame(tmp_path, data, shape):
    (tmp_path / "a.jpg").write_bytes(data)
    for shown in readings(tmp_path / "a.jpg"):
        assert shown.shape == shape and np.abs(shown.astype(int) - [254, 0, 0]).max() <= 3


@pytest.mark.parametrize("between", [b"", b"\0\0\xff", b"\r\n"])
def test_pictures_behind_one_another_are_a_film(tmp_path, between):
    (tmp_path / "a.mjpeg").write_bytes((RED + between + BLUE + between) * 4)
    video = load_video(tmp_path / "a.mjpeg", num_frames=8, repeat=False)
    assert video.total_frames == 8 and (video.frames.mean((1, 2)).argmax(-1) == [0, 2] * 4).all()


def tiff(order: str, *pictures: tuple[Image.Image, int]) -> bytes:
    """Pictures with their NewSubfileType, uncompressed."""
    data, link = bytearray(struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 0)), 4
    for image, kind in pictures:
        strip, depths = len(data), len(data) + len(image.tobytes())
        data += image.tobytes() + struct.pack(f"{order}3H", 8, 8, 8)
        struct.pack_into(f"{order}I", data, link, len(data))
        long = {254: kind, 256: image.width, 257: image.height, 258: depths, 273: strip, 278: image.height}
        long |= {279: len(image.tobytes())}
        tags = [(tag, 4, 3 if tag == 258 else 1, struct.pack(f"{order}I", value)) for tag, value in long.items()]
        tags[3] = (258, 3, 3, tags[3][3])
        tags += [(tag, 3, 1, struct.pack(f"{order}Hxx", value)) for tag, value in ((259, 1), (262, 2), (277, 3))]
        data += struct.pack(f"{order}H", len(tags)) + b"".join(
            struct.pack(f"{order}HHI4s", *tag) for tag in sorted(tags)
        )
        link = len(data)
        data += bytes(4)
    return bytes(data)


SIZES = (((48, 32), "red"), ((48, 32), "blue"), ((12, 8), "green"))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_file_of_several_pictures(tmp_path, order):
    """FFmpeg reads its first one, which is the photo or not."""
    path = tmp_path / "a.tif"
    red, blue, preview = (Image.new("RGB", size, color) for size, color in SIZES)
    for pictures in ([(red, 0)], [(red, 0), (preview, 1), (blue, 4)]):
        path.write_bytes(tiff(order, *pictures))
        frames = load_video(path, num_frames=4, repeat=False).frames
        assert frames.shape == (1, 32, 48, 3) and (frames == [255, 0, 0]).all()
    for pictures in ([(red, 0), (blue, 0)], [(preview, 1), (red, 0)], [(red, 0), (preview, 1), (blue, 2)]):
        path.write_bytes(tiff(order, *pictures))
        with pytest.raises(VideoError, match=f"a TIFF file of {len(pictures)} pictures, .* save what is meant as PNG"):
            load_video(path, num_frames=4)
