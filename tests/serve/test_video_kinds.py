"""One set of frames, times, colours and turns for a file, whoever decodes it: long files, few frames asked for."""

from math import cos, radians, sin
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.long_files import FRAMES, LONG, RATE
from benchmarks.odd_files import number, picture, turned
from llava.video import Video, VideoError, load_video, open_video

DATA = Path(__file__).parents[1] / "data" / "video"
DECODERS = ("auto", "decord")
# file -> number of the first frame, frames, seconds
FILES = {
    "anim.webp": (0, 24, 2.4),
    "h264_nobf.avi": (0, 300, 12.0),
    "mpeg4_bframes.mp4": (0, 300, 12.0),
    "still_first.mkv": (0, 300, 12.0),
    "trimmed_editlist.mp4": (83, 217, 8.68),
    "trimmed_neg.mkv": (64, 236, 9.44),
}


def read(path: Path, decoder: str, **asked) -> Video | None:
    """None where decord refuses; the others must read."""
    try:
        return load_video(path, decoder=decoder, **asked)
    except VideoError as error:
        assert decoder == "decord" and "use the decoder auto" in str(error), error
        return None


def check(path: Path, first: int, count: int, seconds: float) -> set[str]:
    """Few frames, frames by the second, and frames one after another are right; the decoders that read it."""
    rate, readers = count / seconds, set()
    evenly = np.linspace(0, count - 1, 12).astype(int)
    for decoder in DECODERS:
        video = read(path, decoder, num_frames=12)
        if video is None:
            continue
        readers.add(video.decoder)
        assert [number(frame) for frame in video.frames] == (first + evenly).tolist()
        assert video.total_frames == count and video.duration == pytest.approx(seconds, abs=0.01)
        np.testing.assert_allclose(video.times, evenly / rate, atol=2e-3)
    every = np.arange(0, count, round(rate))
    with open_video(path, num_frames=64, fps=1) as stream:
        assert [number(frame) for frame in stream] == (first + every).tolist()
        np.testing.assert_allclose(stream.times, every / rate, atol=2e-3)
    return readers


@pytest.mark.parametrize("name", FILES)
def test_files_that_decoders_disagreed_on(name):
    check(DATA / name, *FILES[name])


DOUBLED = "a varying rate with one time twice"


@pytest.mark.parametrize("label", [label for label in LONG if label != DOUBLED])
def test_long_files(tmp_path, label):
    file, write, first, count = LONG[label]
    write(tmp_path / file)
    readers = check(tmp_path / file, first, count, count / RATE)
    if label in ("H.264 with B-frames", "HEVC, closed groups", "VP9"):
        assert "decord" in readers


def test_one_doubled_time_leaves_the_others(tmp_path):
    file, write, *_ = LONG[DOUBLED]
    write(tmp_path / file)
    times = np.cumsum([0, *[20] * 99, 0, *[200] * 100, *[40] * 99]) / 1000
    video = load_video(tmp_path / file, num_frames=FRAMES)
    assert [number(frame) for frame in video.frames] == list(range(FRAMES))
    np.testing.assert_allclose(video.times, times, atol=1e-3)
    clock = [int(np.searchsorted(times, second - 1e-6)) for second in range(int(times[-1]) + 1)]
    by_second = load_video(tmp_path / file, num_frames=64, fps=1)
    assert [number(frame) for frame in by_second.frames] == clock


def by(degrees: float) -> tuple[float, float, float, float]:
    """The matrix that turns clockwise by so much."""
    turn = radians(degrees)
    return cos(turn), sin(turn), -sin(turn), cos(turn)


# how a picture is shown: description -> (matrix, the same done with NumPy)
PLACED = {
    "mirrored left to right": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "mirrored top to bottom": ((1, 0, 0, -1), lambda x: x[::-1]),
    "mirrored at the falling diagonal": ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    "mirrored at the rising diagonal": ((0, -1, -1, 0), lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
    "turned by 90°": (by(90), lambda x: np.rot90(x, 3)),
    "turned by 180°": (by(180), lambda x: np.rot90(x, 2)),
    "turned by 270°": (by(270), lambda x: np.rot90(x, 1)),
    "turned by 0.7°": (by(0.7), lambda x: x),
    "turned by 88.6°": (by(88.6), lambda x: np.rot90(x, 3)),
    "turned by 180.6°": (by(180.6), lambda x: np.rot90(x, 2)),
    "turned by 271.4°": (by(271.4), lambda x: np.rot90(x, 1)),
}


@pytest.mark.parametrize("label", PLACED)
def test_turns_and_mirrors(tmp_path, label):
    """All four mirrors, and matrices that are not exact."""
    matrix, done = PLACED[label]
    turned(tmp_path / "a.mp4", matrix, frames=FRAMES, rate=RATE)
    for decoder in DECODERS:
        video = read(tmp_path / "a.mp4", decoder, num_frames=3)
        for shown, frame in zip((0, 149, 299), [] if video is None else video.frames, strict=video is not None):
            assert np.abs(frame.astype(float) - done(picture(shown)).astype(float)).mean() < 12


def test_a_mirrored_recording():
    video = load_video(DATA / "mirror_h.mp4", num_frames=12)
    numbers = [number(frame[:, ::-1]) for frame in video.frames]
    assert numbers == np.linspace(0, 299, 12).astype(int).tolist()


COLOURS = np.array([[235, 16, 16], [16, 235, 16], [16, 16, 235], [200, 150, 100], [128, 128, 128]], float)
# weights of red and blue in luma, and the code that files state; untagged is read as BT.601 whatever the size
MATRICES = {
    "709": (0.2126, 0.0722, 1),
    "601": (0.299, 0.114, 6),
    "2020": (0.2627, 0.0593, 9),
    "none": (0.299, 0.114, 2),
}


def coloured(path: Path, matrix: str, full: bool, size: tuple[int, int]) -> None:
    """Stripes of COLOURS, converted here by the standards' formulas and stored without loss."""
    red, blue, code = MATRICES[matrix]
    r, g, b = COLOURS.T / 255
    luma = red * r + (1 - red - blue) * g + blue * b
    chroma = np.stack([(b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)])
    planes = np.vstack([255 * luma, 128 + 255 * chroma]) if full else np.vstack([16 + 219 * luma, 128 + 224 * chroma])
    stripes = np.repeat(np.rint(planes).astype(np.uint8), size[0] // len(COLOURS), axis=1)
    pixels = np.repeat(stripes[:, None], size[1], axis=1)  # (3,H,W)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = code, 2 if full else 1
        frame = av.VideoFrame.from_ndarray(pixels, format="yuv444p")
        frame.colorspace, frame.color_range = code, 2 if full else 1
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)


@pytest.mark.parametrize("size", [(80, 48), (1280, 720)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours(tmp_path, matrix, full, size):
    coloured(tmp_path / "a.mp4", matrix, full, size)
    middles = (np.arange(len(COLOURS)) * 2 + 1) * size[0] // (2 * len(COLOURS))
    for decoder in ("pyav", "decord"):
        frame = load_video(tmp_path / "a.mp4", num_frames=1, decoder=decoder).frames[0]
        assert np.abs(frame[size[1] // 2, middles] - COLOURS).max() <= 2  # two roundings to bytes


def test_colours_of_a_file_from_elsewhere():
    for decoder in DECODERS:
        frame = load_video(DATA / "bt709.mp4", num_frames=1, decoder=decoder).frames[0]
        assert np.abs(frame[5, 5].astype(int) - [235, 16, 16]).max() <= 2
