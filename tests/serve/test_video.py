"""Video input: what is read, when, and what is said when it cannot be."""

import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aot_tiny.drawing import write_video as write_pictures
from llava.decoders.sampling import choose_frames, most_changed
from llava.video import Video, VideoError, load_video, open_video, time_text

from .conftest import picture, write_audio, write_video

DECODERS = ("decord", "pyav")


def refusal(path, **settings) -> str:
    """The text of the one-sentence error that the video causes."""
    with pytest.raises(VideoError) as caught:
        load_video(path, **settings)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


def near(frames, numbers, size=(96, 64)) -> bool:
    """Do the frames show the pictures of these numbers (up to what the codec loses)?"""
    truth = np.stack([picture(number, size[1], size[0]) for number in numbers]).astype(float)
    return np.abs(frames.astype(float) - truth).mean() < 12


@pytest.mark.parametrize("decoder", DECODERS)
def test_uniform_frames_and_times(clip, decoder):
    video = load_video(clip, num_frames=16, decoder=decoder)
    numbers = np.linspace(0, 59, 16).astype(int)
    assert video.frames.shape == (16, 64, 96, 3) and video.frames.dtype == np.uint8
    assert video.decoder == decoder and video.total_frames == 60
    assert near(video.frames, numbers) and not near(video.frames, numbers[::-1])
    np.testing.assert_allclose(video.times, numbers / 30, atol=1e-4)
    assert video.duration == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_decoders_agree(tmp_path, name):
    codec = {"webm": "libvpx"}.get(name[2:], "libx264")
    path = write_video(tmp_path / name, frames=90, codec=codec)
    first, second = (load_video(path, num_frames=11, decoder=decoder) for decoder in DECODERS)
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_allclose(first.times, second.times, atol=1e-4)
    assert first.total_frames == second.total_frames == 90


def test_decord_is_asked_on_request_alone(tmp_path, clip):
    path = write_video(tmp_path / "a.ts", frames=90)
    video = load_video(path, num_frames=11)
    assert video.decoder == "pyav" and near(video.frames, np.linspace(0, 89, 11).astype(int))
    assert "other containers than MP4" in refusal(path, decoder="decord")
    assert load_video(clip, num_frames=2).decoder == "pyav"


def test_recording_that_starts_inside_a_picture_group(tmp_path):
    path = tmp_path / "late.ts"
    write_video(path, frames=90, gop=30)
    data = path.read_bytes()
    packets = len(data) // 188
    path.write_bytes(data[packets // 5 * 188 :])  # the first keyframe is gone, its followers cannot be shown
    video = load_video(path, num_frames=2)
    first = 90 - video.total_frames
    assert 0 < first < 60 and near(video.frames, [first, 89])


def test_seeking_finds_the_frames_of_sequential_decoding(tmp_path):
    path = write_video(tmp_path / "long.mp4", frames=300, gop=25)
    few = load_video(path, num_frames=7, decoder="pyav")
    whole = load_video(path, num_frames=300, decoder="pyav")
    np.testing.assert_array_equal(few.frames, whole.frames[np.linspace(0, 299, 7).astype(int)])


@pytest.mark.parametrize("decoder", DECODERS)
def test_fps_sampling_takes_one_frame_a_second(tmp_path, decoder):
    path = write_video(tmp_path / "five.mp4", frames=50, rate=10)
    video = load_video(path, num_frames=64, fps=1, decoder=decoder)
    np.testing.assert_allclose(video.times, [0, 1, 2, 3, 4], atol=1e-4)
    assert near(video.frames, [0, 10, 20, 30, 40])
    thinned = load_video(path, num_frames=3, fps=1, decoder=decoder)
    np.testing.assert_allclose(thinned.times, [0, 2.4, 4.9], atol=1e-4)
    forced = load_video(path, num_frames=8, fps=1, force_sample=True, decoder=decoder)
    assert len(forced.times) == 8


@pytest.mark.parametrize("decoder", DECODERS)
def test_varying_rate_keeps_true_times(tmp_path, decoder):
    pts = np.cumsum([0] + [40] * 24 + [1000] * 5).tolist()  # one second at 25 a second, then one frame a second
    path = write_video(tmp_path / "vfr.mp4", frames=30, pts=pts)
    video = load_video(path, num_frames=30, decoder=decoder)
    np.testing.assert_allclose(video.times, np.array(pts) / 1000, atol=2e-3)
    second = load_video(path, num_frames=64, fps=1, decoder=decoder)
    assert near(second.frames, [0, 25, 26, 27, 28, 29])  # by the clock: never 25 frames of the first second


@pytest.mark.parametrize("decoder", DECODERS)
def test_single_frame_is_repeated(tmp_path, decoder):
    path = write_video(tmp_path / "one.mp4", frames=1)
    video = load_video(path, num_frames=4, decoder=decoder)
    assert near(video.frames, [0, 0, 0, 0])
    np.testing.assert_array_equal(video.times, [0, 0, 0, 0])


def test_folder_in_natural_order(tmp_path):
    for number in (1, 2, 3, 10, 20):
        suffix = "JPG" if number == 3 else "png"
        Image.fromarray(picture(number, 32, 48)).save(tmp_path / f"frame{number}.{suffix}", quality=95)
    (tmp_path / "notes.txt").write_text("not a frame")
    video = load_video(tmp_path, num_frames=5)
    assert video.decoder == "folder" and near(video.frames, [1, 2, 3, 10, 20], (48, 32))
    np.testing.assert_array_equal(video.times, [0, 1, 2, 3, 4])


def test_folder_refusals(tmp_path):
    assert "holds no .png or .jpg" in refusal(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "2.png")
    assert "same size" in refusal(tmp_path, num_frames=2)
    (tmp_path / "2.png").write_bytes(b"\x89PNG damaged")
    assert "2.png cannot be read" in refusal(tmp_path, num_frames=2)


@pytest.mark.parametrize("decoder", ["auto", *DECODERS])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_truncated_file_is_an_error_that_counts(tmp_path, name, part, decoder):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = tmp_path / name
    write_video(path, frames=100, codec=codec, faststart=name.endswith("mp4"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert "cut short: only" in refusal(path, num_frames=4, decoder=decoder)


def test_truncated_file_without_its_index(tmp_path, clip):
    path = tmp_path / "head.mp4"
    with open(clip, "rb") as file:
        path.write_bytes(file.read()[:2000])
    assert "cut short" in refusal(path)


def test_damaged_middle_is_not_passed_over(tmp_path):
    path = tmp_path / "hole.mp4"
    write_video(path, frames=100, gop=100, faststart=True)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + len(data) // 4
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)
    assert "frames of" in refusal(path, num_frames=8, decoder="pyav")


def test_missing_empty_text_and_audio(tmp_path):
    assert "There is no video at" in refusal(tmp_path / "none.mp4")
    (tmp_path / "zero.mp4").write_bytes(b"")
    assert "is empty" in refusal(tmp_path / "zero.mp4")
    for name in ("text.mp4", "text.txt"):
        (tmp_path / name).write_text("These are words and not pictures.\n" * 50)
        assert "video" in refusal(tmp_path / name)
    assert "audio" in refusal(write_audio(tmp_path / "tone.m4a"))


def test_settings_that_make_no_sense(clip):
    assert "num_frames" in refusal(clip, num_frames=0)
    assert "fps" in refusal(clip, fps=0)
    assert "fps" in refusal(clip, fps=float("nan"))
    assert "decoder" in refusal(clip, decoder="opencv")


def test_without_decord(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    assert load_video(clip, num_frames=4).decoder == "pyav"
    assert "decord is not installed" in refusal(clip, decoder="decord")


@pytest.mark.parametrize(
    "body",
    [
        "raise SystemExit(3)",
        "import time; time.sleep(60)",
        "import os; os.abort()",
        "VideoReader = None\nclass DECORDError(Exception): pass\ndef cpu(number): raise DECORDError('no')",
    ],
)
def test_decord_that_dies_or_hangs_is_one_sentence(clip, tmp_path, monkeypatch, body):
    package = tmp_path / "decord.py"
    package.write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("llava.decoders.worker_process.SILENCE", 3.0)
    assert "decord" in refusal(clip, decoder="decord")
    assert load_video(clip, num_frames=4).decoder == "pyav"


def test_only_the_sampled_frames_are_kept(tmp_path):
    path = write_video(tmp_path / "hd.mp4", frames=200, size=(640, 360), codec="mpeg4")
    seen = []
    video = load_video(path, num_frames=3, decoder="pyav", progress=lambda done, total: seen.append((done, total)))
    assert video.frames.nbytes == 3 * 640 * 360 * 3 and seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("asked", [{"num_frames": 16}, {"num_frames": 64, "fps": 5}, {"num_frames": 130}])
def test_frames_one_after_another_are_those_read_at_once(clip, decoder, asked):
    """130 of 60 frames: some come twice, some three times."""
    whole, seen = load_video(clip, decoder=decoder, **asked), []
    with open_video(clip, decoder=decoder, progress=lambda *done: seen.append(done), **asked) as video:
        np.testing.assert_array_equal(video.times, whole.times)
        fields = ("duration", "total_frames", "rate", "decoder")
        assert [getattr(video, name) for name in fields] == [getattr(whole, name) for name in fields]
        frames = list(video)
    np.testing.assert_array_equal(frames, whole.frames)
    assert seen == [(done, min(60, len(frames))) for done in range(1, min(60, len(frames)) + 1)]


def test_pictures_one_after_another(tmp_path):
    for number in (1, 2, 10):
        Image.fromarray(picture(number, 32, 48)).save(tmp_path / f"{number}.png")
    with open_video(tmp_path, num_frames=4) as video:
        assert near(np.stack(list(video)), [1, 1, 2, 10], (48, 32)) and video.decoder == "folder"
    Image.new("RGB", (10, 10)).save(tmp_path / "2.png")
    with pytest.raises(VideoError, match="same size"), open_video(tmp_path, num_frames=3) as video:
        list(video)


WORKER = """
import json, struct, sys
def send(data=b"", **line):
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\\n" + data)
    sys.stdout.buffer.flush()
def tell(*times):
    send(struct.pack(f"={len(times)}d", *times), count=len(times), rate=1, seconds=4, decoder="pyav")
    return json.loads(sys.stdin.readline())
def show(numbers):
    for number in numbers:
        send(bytes([number] * 12), height=2, width=2)
frames = tell(0, 1, 2, 3)
"""


@pytest.mark.parametrize(
    "ending, words",
    [
        ("show(frames)", None),
        ("show(frames[:2])", "gave up"),
        ("show(frames[:2]); import time; time.sleep(60)", "stopped after 1 seconds"),
        ("show(frames[:2]); send(refused='It ends here.')", "^It ends here.$"),
        ("show(frames[:2]); tell(0)", "takes back"),
        ("show(frames[:2]); send(height=2**18, width=2**18)", "GiB"),
    ],
)
def test_a_decoder_that_ends_between_frames(clip, tmp_path, monkeypatch, ending, words):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER + ending)
    monkeypatch.setattr("llava.decoders.worker_process.WORKER", worker)
    seen = []
    with open_video(clip, num_frames=4, time_limit=1.0) as video:
        frames = iter(video)
        seen.append(next(frames)[0, 0, 0])
        time.sleep(1.1)  # what becomes of a frame takes none of the decoder's time
        if words is None:
            seen.extend(frame[0, 0, 0] for frame in frames)
        else:
            with pytest.raises(VideoError, match=words):
                seen.extend(frame[0, 0, 0] for frame in frames)
    assert seen == ([0, 1, 2, 3] if words is None else [0, 1])


@pytest.mark.parametrize(
    "times, words",
    [
        ((0, 1e19), "frame times"),
        ((0, float("nan")), "frame times"),
        ((0, 1, 0.5), "frame times"),
        ((0, 0, 0), "frame times"),
        ((0, 100), "frame times"),  # of a file that states four seconds
        ((), "counts 0"),
        ((0, 1, 2, 3), None),
    ],
)
def test_times_are_believed_within_reason(clip, tmp_path, monkeypatch, times, words):
    worker = tmp_path / "worker.py"
    numbers = ", ".join(f"float('{time}')" for time in times)
    worker.write_text(WORKER.replace("tell(0, 1, 2, 3)", f"tell({numbers})") + "show(frames)")
    monkeypatch.setattr("llava.decoders.worker_process.WORKER", worker)
    if words:
        assert words in refusal(clip, num_frames=4, fps=1)
    else:
        assert load_video(clip, num_frames=4, fps=1).total_frames == 4


def test_other_times_in_the_middle_start_over(clip, tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER + "show(frames[:2]); show(tell(0, 1, 2))")
    monkeypatch.setattr("llava.decoders.worker_process.WORKER", worker)
    video = load_video(clip, num_frames=3)
    assert video.frames[:, 0, 0, 0].tolist() == [0, 1, 2] and video.total_frames == 3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 3, allow_subnormal=False), min_size=1, max_size=40), st.floats(0.1, 30))
def test_the_clock_picks_the_first_frame_of_each_period(steps, fps):
    """Against a loop over the strokes of the clock, which may be many."""
    times = np.cumsum([0, *steps])
    expected = {int(np.searchsorted(times, stroke / fps - 1e-6)) for stroke in range(int((times[-1] + 1e-6) * fps) + 1)}
    picked = choose_frames(times, 1000.0, num_frames=10_000, fps=fps)  # a rate that these times do not have
    if np.abs(times - np.arange(len(times)) / 1000).max() > 1e-3:
        assert picked.tolist() == sorted(expected)


def test_what_cannot_be_read_is_refused_before_the_first_frame(clip, tmp_path):
    (tmp_path / "text.mp4").write_text("These are words and not pictures.\n" * 50)
    for path, asked in ((tmp_path / "none.mp4", {}), (tmp_path / "text.mp4", {}), (clip, {"num_frames": 0})):
        with pytest.raises(VideoError) as caught, open_video(path, **asked):
            pytest.fail("it was opened")
        assert str(caught.value) == refusal(path, **asked)


def test_time_text():
    video = Video(np.zeros((2, 1, 1, 3), np.uint8), np.array([0.0, 1.004]), 3.456, "pyav", 100, 30.0)
    assert time_text(video) == (
        "The video lasts for 3.46 seconds, and 2 frames are uniformly sampled from it. "
        "These frames are located at 0.00s,1.00s.Please answer the following questions related to this video."
    )


def test_frames_by_change_leave_out_what_stays(tmp_path):
    """A clip that stands still but for two stretches: the frames are those of the stretches, at their own times."""
    still = np.full((96, 128, 3), 60, np.uint8)
    frames = []
    for number in range(64):
        frame = still.copy()
        if 16 <= number < 24 or 40 <= number < 48:
            frame[:, 4 * (number % 16) : 4 * (number % 16) + 48] = 220
        frames.append(frame)
    path = tmp_path / "clip.mp4"
    write_pictures(path, np.stack(frames), fps=8, crf=10)
    for decoder in ("pyav", "auto"):
        video = load_video(path, num_frames=16, by_change=True, decoder=decoder)
        shown = np.round(video.times * 8).astype(int)
        assert len(shown) == 16 and (np.diff(shown) > 0).all() and shown[0] == 0
        moving = {*range(16, 25), *range(40, 49)}  # and the frame in which it ends
        assert len(moving & {*shown.tolist()}) >= 14
        whole = load_video(path, num_frames=64)
        np.testing.assert_array_equal(video.frames, whole.frames[shown])
    with open_video(path, num_frames=16, by_change=True) as stream:
        np.testing.assert_array_equal(stream.read().times, video.times)
    with pytest.raises(VideoError, match="the limit is 3 s"), open_video(path, by_change=True, max_seconds=3):
        pass
    assert len(load_video(path, num_frames=100, by_change=True).times) == 64  # each once


def test_where_nothing_changes_frames_are_spread():
    times = np.arange(64) / 8
    picked = most_changed(np.zeros((64, 32, 32)), times, 16)
    assert len(picked) == 16 and picked[0] == 0 and np.diff(picked).max() <= 2 * 64 / 16
    rng = np.random.default_rng(0)
    pictures = rng.random((40, 32, 32)) * 255
    pictures[10:30] = pictures[10]
    picked = most_changed(pictures, times[:40], 21)
    assert (
        picked.tolist() == [*range(11), *range(30, 40)]
        and (most_changed(pictures, times[:40], 99) == np.arange(40)).all()
    )
