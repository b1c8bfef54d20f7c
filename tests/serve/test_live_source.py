"""Sources that go on: each kind, and each way in which one is lost, said in one sentence."""

import io
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from llava.decoders.base import VideoError
from llava.live_source import QUEUE, LiveSource

from .cameras import Camera, rtp_packets
from .conftest import picture

LONG = 60.0  # seconds a busy machine may take


def taken(source, frames, notes=0):
    """(times, frames, notes) until there are so many, or the source is over."""
    seen, said, end = [], [], time.monotonic() + LONG
    while (len(seen) < frames or len(said) < notes) and time.monotonic() < end:
        over = source.over
        seen += source.take(0.1)
        said += source.notes()
        if over:
            break
    return [seconds for seconds, _ in seen], [frame for _, frame in seen], said


def jpeg(number, size=(32, 48)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number, *size)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def standard_input():
    """A function that opens a source on what is written to standard input."""
    kept = os.dup(0)
    pipes = []

    def make(data: bytes, **settings) -> LiveSource:
        reading, writing = os.pipe()
        os.dup2(reading, 0)
        os.close(reading)
        pipes.append(os.fdopen(writing, "wb"))
        source = LiveSource("-", fps=1e6, **settings)
        pipes[-1].write(data)
        pipes[-1].flush()
        return source

    make.close = lambda: pipes.pop().close()
    yield make
    os.dup2(kept, 0)
    os.close(kept)
    for pipe in pipes:
        pipe.close()


def test_a_film_is_played_at_its_own_pace(clip):
    with LiveSource(clip, fps=5) as source:
        started, arrived, times = None, [], []
        while not source.over:
            for seconds, frame in source.take(0.1):
                started = time.monotonic() if started is None else started
                arrived.append(time.monotonic() - started)
                times.append(seconds)
                assert frame.shape == (64, 96, 3)
    np.testing.assert_allclose(times, np.arange(10) / 5, atol=1e-6)
    assert arrived[-1] > 1.8 - 0.5 and source.dropped == 0 and source.notes() == []


def test_a_folder_grows(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (9, 10):
        Image.fromarray(picture(number, 32, 48)).save(folder / f"{number}.png")
    with LiveSource(str(folder)) as source:
        _, frames, _ = taken(source, 2)
        np.testing.assert_array_equal(frames, [picture(9, 32, 48), picture(10, 32, 48)])
        # a picture that is none, one of another size, and one whose end is written later
        (folder / "11.jpg").write_text("no picture")
        os.utime(folder / "11.jpg", (0, 0))
        Image.fromarray(picture(12, 64, 20)).save(folder / "12.png")
        half = jpeg(13)
        (folder / "13.jpg").write_bytes(half[:300])
        _, frames, said = taken(source, 1, notes=2)
        assert frames[0].shape == (64, 20, 3) and len(said) == 2
        assert "11.jpg cannot be read" in said[0] and "are 20x64 now, no longer 48x32" in said[1]
        (folder / "13.jpg").write_bytes(half)
        assert taken(source, 1)[1][0].shape == (32, 48, 3)
        shutil.rmtree(folder)
        while not any("is gone" in sentence for sentence in source.notes()):
            time.sleep(0.1)
        folder.mkdir()
        Image.fromarray(picture(14, 32, 48)).save(folder / "14.png")
        np.testing.assert_array_equal(taken(source, 1)[1][0], picture(14, 32, 48))
        assert not source.over


def test_a_folder_waits_and_loses_nothing(tmp_path):
    for number in range(2 * QUEUE):
        Image.fromarray(picture(number, 32, 48)).save(tmp_path / f"{number}.png")
    with LiveSource(str(tmp_path)) as source:
        time.sleep(1)
        assert len(taken(source, 2 * QUEUE)[1]) == 2 * QUEUE and source.dropped == 0


def test_pictures_of_standard_input(standard_input):
    with standard_input(b"".join(map(jpeg, range(5))) + jpeg(5, (64, 20))) as source:
        standard_input.close()
        _, frames, said = taken(source, 6)
    assert [frame.shape[:2] for frame in frames] == [(32, 48)] * 5 + [(64, 20)] and len(said) == 1
    # as Pillow reads them, but for the rounding of colours
    assert all(np.abs(frame.astype(int) - picture(n, 32, 48)).mean() < 12 for n, frame in enumerate(frames[:5]))


def test_raw_pictures_of_standard_input(standard_input):
    pixels = [picture(number, 32, 48) for number in range(3)]
    with standard_input(np.stack(pixels).tobytes() + b"half", size=(48, 32)) as source:
        standard_input.close()
        _, frames, said = taken(source, 3, notes=1)
    np.testing.assert_array_equal(frames, pixels)
    assert said == ["Standard input ended inside a picture of 48x32; check --size."] and source.over


def test_words_on_standard_input_are_no_film(standard_input):
    with standard_input(b"hello " * 5000) as source:
        standard_input.close()
        assert taken(source, 1)[2] == [
            "Standard input holds no JPEG picture; give MJPEG, or raw RGB with --size WIDTHxHEIGHT."
        ]


def test_standard_input_that_stalls_is_waited_for(standard_input):
    with standard_input(jpeg(0) + jpeg(1), patience=2) as source:
        assert len(taken(source, 1, notes=1)[2]) == 1
        standard_input.close()
        assert len(taken(source, 1)[1]) == 1


@pytest.mark.parametrize(("name", "sentence"), [("none.mp4", "No such file"), ("words.mp4", "not a video")])
def test_what_is_no_film_is_said_and_over(tmp_path, name, sentence):
    (tmp_path / "words.mp4").write_text("no film" * 100)
    with LiveSource(str(tmp_path / name)) as source:
        _, frames, said = taken(source, 1)
        assert frames == [] and len(said) == 1 and sentence in said[0] and source.over


def test_a_text_that_names_another_source_is_not_followed(tmp_path):
    with Camera([], ("close",)) as camera:
        (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{camera.url}\n")
        with LiveSource(str(tmp_path / "list.mp4")) as source:
            assert "not a video" in taken(source, 1)[2][0]
        assert camera.served == 0


def test_frames_are_dropped_and_not_piled_up(tmp_path, clip):
    with LiveSource(clip, fps=30) as source:
        end = time.monotonic() + LONG
        while not source._reading.done() and time.monotonic() < end:
            time.sleep(0.1)
            assert len(source._coming) <= QUEUE
        times = [seconds for seconds, _ in source.take(0)]
    assert source.dropped == 60 - QUEUE and times[-1] == pytest.approx(59 / 30)


def test_a_camera_is_tried_again(tmp_path):
    packets = rtp_packets(25)
    with Camera(packets, ("close", "silent")) as camera, LiveSource(camera.url, fps=1e6, patience=5) as source:
        _, frames, said = taken(source, 1, notes=1)
        assert frames[0].shape == (64, 96, 3) and said[0].endswith("was lost (it ended); it is tried again in 1 s.")
        _, frames, said = taken(source, 1, notes=1)
        assert len(frames) >= 1 and "was lost (no frame for 5 s); it is tried again in 1 s." in said[0]
        assert "secret" not in said[0] and "rtsp://127.0.0.1" in said[0] and not source.over


def test_a_camera_that_is_not_there_is_tried_again():
    with LiveSource("/dev/video63") as source:
        said = taken(source, 0, notes=2)[2]
    assert said == [
        "/dev/video63 was lost (No such file or directory); it is tried again in 1 s.",
        "/dev/video63 was lost (No such file or directory); it is tried again in 2 s.",
    ]


def test_fps_must_make_sense():
    with pytest.raises(VideoError, match="fps must be above 0"):
        LiveSource("-", fps=0)
