"""Any file: the right frames or one sentence, never a crash, a hang or a wrong picture."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.odd_files import CUT, FRAMES, READABLE, REFUSED, TURNS, encode, long, number, picture
from benchmarks.reliability import cut_file, try_file, try_read
from llava.decoders.container import find_video_track
from llava.decoders.pyav_reader import read_pyav
from llava.video import VideoError, load_video, open_video


def test_pictures_say_their_number():
    assert [number(picture(n, (83, 51))) for n in range(1024)] == list(range(1024))


# on request decord reads a part of them, and never a wrong frame; benchmarks/reliability.py tries all
@pytest.mark.parametrize("decoder, part", [("auto", 1), ("decord", 4)])
def test_every_kind_is_read_frame_by_frame(tmp_path, decoder, part):
    lengths = {"one frame": 1, "ten hours, a frame a minute": 600}

    def one(item):
        count, (label, (file, write)) = item
        outcome = try_file(tmp_path / str(count), label, file, write, decoder=decoder)
        refused = outcome.read is None and decoder == "decord"
        right = outcome.right and (refused or outcome.read == lengths.get(label, FRAMES))
        return None if right else (label, outcome.words)

    with ThreadPoolExecutor(2) as pool:
        assert [x for x in pool.map(one, enumerate(list(READABLE.items())[::part])) if x] == []


def test_every_kind_is_read_one_frame_after_another(tmp_path):
    """Restarts, turns, odd sizes and times: the same frames as at once."""
    for count, (label, (file, write)) in enumerate(list(READABLE.items())[::5]):
        path = tmp_path / str(count) / file
        path.parent.mkdir()
        write(path)
        whole = load_video(path, num_frames=10, decoder="pyav")
        with open_video(path, num_frames=10) as video:
            np.testing.assert_allclose(video.times, whole.times, atol=1e-6, err_msg=label)
            np.testing.assert_array_equal(list(video), whole.frames, err_msg=label)


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path):
    for count, (label, (file, write)) in enumerate(REFUSED.items()):
        outcome = try_file(tmp_path / str(count), label, file, write)
        assert outcome.read is None and file in outcome.refusal, (label, outcome.words)


def test_cut_files(tmp_path):
    """Three kinds of containers at every tenth, the others at three; benchmarks/reliability.py tries all."""
    every = ("MP4, index in front", "Matroska", "transport stream")

    def one(item):
        count, (label, (file, write, rate, _)) = item
        tenths = range(1, 10) if label in every else range(count % 3 + 1, 10, 3)
        return cut_file(tmp_path / str(count), file, write, rate=rate, tenths=tenths)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(one, enumerate(CUT.items())))
    for (label, (*_, tells)), outcomes in zip(CUT.items(), results, strict=True):
        for outcome in outcomes:
            # nothing lost in silence where the container says how long it is; elsewhere what is there is read
            assert outcome.right and (outcome.read is None or not tells), (label, outcome.words)
        # MPEG-2 and WMV end in padding, so that a late cut may take no picture away
        read = [outcome.read for outcome in outcomes if outcome.read is not None]
        assert read == sorted(read) and max(read, default=0) <= FRAMES and min(read, default=0) < FRAMES, (label, read)


def bytes_read() -> int:
    """Bytes that this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def read_in_this_process(path: Path) -> tuple[np.ndarray, list[int]]:
    """(times of the last answer, numbers that the eight frames show)."""
    told, shown = [], []

    def ask(times, rate):
        told.append(times)
        shown.clear()
        return np.linspace(0, len(times) - 1, 8).astype(int)

    with open(path, "rb", buffering=0) as file:
        for frame in read_pyav(find_video_track(str(path), file), ask, trust_header=True):
            shown.append(number(frame))
    return told[-1], shown


def test_ten_hours_are_not_read_through(tmp_path):
    path = tmp_path / "long.mp4"
    long(path)
    before = bytes_read()
    times, shown = read_in_this_process(path)
    assert shown == np.linspace(0, 599, 8).astype(int).tolist()
    assert times[-1] == pytest.approx(599 * 60)
    assert bytes_read() - before < path.stat().st_size / 5


def test_long_video_whose_header_is_wrong_is_read_through(tmp_path):
    path = tmp_path / "varying.mp4"
    times = np.cumsum([0, *[100] * 12, *[300_000] * 11]).tolist()  # an hour, nearly all of it at the end
    encode(path, times=times)
    told, shown = read_in_this_process(path)
    np.testing.assert_allclose(told, np.array(times) / 1000, atol=2e-3)
    assert shown == np.linspace(0, 23, 8).astype(int).tolist()


def test_a_length_that_counts_from_1970(tmp_path):
    """Recorders write it where times are those of the clock; as many frames would not fit into the file."""
    path = tmp_path / "a.mkv"
    encode(path, muxer={"output_ts_offset": "1700000000"})
    told, shown = read_in_this_process(path)
    np.testing.assert_allclose(told, np.arange(24) / 10, atol=2e-3)
    assert shown == np.linspace(0, 23, 8).astype(int).tolist()


def test_a_decoder_that_crashes_or_hangs_is_one_sentence(tmp_path, monkeypatch):
    path, worker = tmp_path / "a.mp4", tmp_path / "worker.py"
    encode(path)
    monkeypatch.setattr("llava.decoders.worker_process.WORKER", worker)
    started = time.monotonic()
    for body, words in (
        ("import os; os.abort()", "gave up"),
        ("import time; time.sleep(60)", "stopped after 1 seconds"),
        ("print('not a message')", "something else than frames"),
    ):
        worker.write_text(body)
        with pytest.raises(VideoError, match=words):
            load_video(path, num_frames=4, time_limit=1.0)
    worker.write_text('print(\'{"defect": "Traceback of a mistake"}\')')
    with pytest.raises(RuntimeError, match="Traceback of a mistake"):  # mistakes of the program are not hidden
        load_video(path, num_frames=4)
    assert time.monotonic() - started < 30


def test_time_limit_must_be_above_zero(tmp_path):
    with pytest.raises(VideoError, match="time_limit"):
        load_video(tmp_path / "a.mp4", time_limit=0)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Small whole files of six containers by suffix."""
    folder = tmp_path_factory.mktemp("seeds")
    kinds = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4", "flv": "flv", "ts": "libx264"}
    for suffix, codec in kinds.items():
        encode(folder / f"seed.{suffix}", codec=codec, frames=6)
    return {suffix: (folder / f"seed.{suffix}").read_bytes() for suffix in kinds}


names = itertools.count()


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes(seeds, tmp_path, data):
    suffix = data.draw(st.sampled_from(sorted(seeds)))
    content = bytearray(seeds[suffix])
    for _ in range(data.draw(st.integers(1, 12))):
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "repeat", "zero"]))
        size = data.draw(st.integers(1, 64))
        if kind == "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut" and len(content) > 200:
            del content[place : place + size]
        elif kind == "repeat":
            content[place:place] = content[place : place + size]
        else:
            content[place : place + size] = bytes(len(content[place : place + size]))
    path = tmp_path / f"{next(names)}.{suffix}"
    path.write_bytes(content)
    try_read(path)  # a video or one sentence; whatever else is raised
    path.unlink()


def test_turns_are_those_of_readable_files():
    assert set(TURNS) <= set(READABLE)
