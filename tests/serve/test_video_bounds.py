"""What a video may not do: open another file, take the memory, wait for ever, or outlive the program."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.odd_files import encode, number
from llava.decoders import sandbox, worker_process
from llava.decoders.base import FRAME_PIXELS
from llava.video import VideoError, load_video, open_video

SECRET = 600  # pictures from this number on belong to a file that was not given
DECODERS = ("auto", "decord")


def refused_at_once(path, words: str, **settings) -> None:
    started = time.monotonic()
    with pytest.raises(VideoError, match=words) as caught:
        load_video(path, num_frames=4, **settings)
    assert time.monotonic() - started < 10 and "\n" not in str(caught.value)


# no foreign file


def playlist(secret: Path) -> bytes:
    return b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n%s\n#EXT-X-ENDLIST\n" % bytes(secret)


def manifest(secret: Path) -> bytes:
    return (
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        b'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT2S"><Period>'
        b'<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>%s</BaseURL>'
        b"</Representation></AdaptationSet></Period></MPD>\n" % bytes(secret)
    )


LISTS = {
    "HLS": playlist,
    "concat": lambda secret: b"ffconcat version 1.0\nfile '%s'\n" % bytes(secret),
    "DASH": manifest,
    "SDP": lambda secret: (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
        b"a=rtpmap:96 H264/90000\n# %s\n" % bytes(secret)
    ),
    "IMF": lambda secret: (
        b'<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">%s'
        b"</CompositionPlaylist>" % bytes(secret)
    ),
    "VobSub": lambda secret: b"# VobSub index file, v7\nid: en, index: 0\n# %s\n" % bytes(secret),
}


def never_the_secret(path, decoder: str) -> None:
    """Refused, or the given file's own pictures."""
    try:
        video = load_video(path, num_frames=4, decoder=decoder)
    except VideoError as error:
        assert "\n" not in str(error)
        return
    assert all(number(frame) < SECRET for frame in video.frames)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_files_before_a_film(tmp_path, kind, decoder):
    """Under every name, before raw pictures of its own, before an MP4, and in a box within it."""
    for suffix in ("ts", "mp4"):
        encode(tmp_path / f"secret.{suffix}", first=SECRET, options={"bf": "0"})
    encode(tmp_path / "own.h264", container="h264")
    encode(tmp_path / "own.mp4")
    own = (tmp_path / "own.mp4").read_bytes()
    head = struct.unpack(">I", own[:4])[0]
    for count, suffix in enumerate(("ts", "mp4")):
        text = LISTS[kind](tmp_path / f"secret.{suffix}")
        box = struct.pack(">I", len(text) + 8) + b"free" + text
        bodies = (text + (tmp_path / "own.h264").read_bytes(), text + own, own[:head] + box + own[head:])
        for name, body in zip(("a.ts", "a.mp4", "b.avi"), bodies, strict=True):
            path = tmp_path / f"{count}{name}"
            path.write_bytes(body)
            never_the_secret(path, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_name_is_only_a_name(tmp_path, monkeypatch, decoder):
    """Protocols of FFmpeg and patterns for series of pictures, as names of files that are videos themselves."""
    monkeypatch.chdir(tmp_path)
    encode(Path("own.mp4"))
    encode(Path("secret.ts"), first=SECRET)
    for count in range(3):
        Image.new("RGB", (80, 48), "white").save(f"series{count}.png")
    names = (
        *("concat:secret.ts|secret.ts", "file:secret.ts", "subfile,,start,0,end,0,,:secret.ts", "async:secret.ts"),
        *("series%d.png", "series[0-2].png", "series*.png", "pipe:0", "fd:0", "crypto:secret.ts", "-i", "a|b.mp4"),
    )
    for name in names:
        Path(name).write_bytes(Path("own.mp4").read_bytes())
        shown = [number(frame) for frame in load_video(name, num_frames=4, decoder=decoder).frames]
        assert shown == [0, 7, 15, 23], name
    Path("series%d.png").write_bytes(b"no picture")
    refused_at_once("series%d.png", "not a video", decoder="auto")


def alias(path: Path) -> bytes:
    """A QuickTime data reference to another file by its absolute path."""
    text = bytes(path)
    head = bytes(10) + bytes([4]) + b"disk".ljust(27, b"\0") + bytes(12)
    head += bytes([len(path.name)]) + bytes(path.name, "ascii").ljust(63, b"\0") + bytes(16)
    head += struct.pack(">hh", 1, 1) + bytes(16)
    record = head + struct.pack(">hH", 2, len(text)) + text + bytes(len(text) % 2) + struct.pack(">hH", -1, 0)
    return struct.pack(">I4sI", len(record) + 12, b"alis", 0) + record


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_movie_whose_pictures_are_in_another_file(tmp_path, decoder):
    encode(tmp_path / "secret.mov", first=SECRET, muxer={"movflags": "faststart"})
    data = (tmp_path / "secret.mov").read_bytes()
    data = data[: data.index(b"mdat") - 4]
    reference = data.rindex(b"url ") - 4
    entry, added = alias(tmp_path / "secret.mov"), len(alias(tmp_path / "secret.mov")) - 12
    data = bytearray(data[:reference] + entry + data[reference + 12 :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = data.index(box) - 4
        data[start : start + 4] = struct.pack(">I", struct.unpack(">I", data[start : start + 4])[0] + added)
    (tmp_path / "a.mov").write_bytes(data)
    with pytest.raises(VideoError):
        load_video(tmp_path / "a.mov", num_frames=4, decoder=decoder)


def in_worker(tmp_path, monkeypatch, patch: str) -> None:
    """Decoders run the real worker with something in it replaced."""
    script = tmp_path / "patched_worker.py"
    script.write_text(
        f"import sys, os, time; sys.path.insert(0, {str(worker_process.WORKER.parent)!r})\n"
        f"import worker; worker.light_package(); sys.path.pop(0)\n{patch}\nworker.main(*sys.argv[1:])\n"
    )
    monkeypatch.setattr(worker_process, "WORKER", script)


@pytest.mark.parametrize("trick", ["open('/etc/hostname')", "__import__('socket').socket()"])
def test_the_kernel_refuses_a_second_file(tmp_path, monkeypatch, trick):
    patch = f"import llava.decoders.container as c, socket\nc.find_video_track = lambda path, file: {trick}"
    in_worker(tmp_path, monkeypatch, patch)
    encode(tmp_path / "a.mp4")
    with pytest.raises(RuntimeError, match="Too many open files"):
        load_video(tmp_path / "a.mp4")


# pipes, devices, circles


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    refused_at_once(tmp_path / "pipe.mp4", "no regular file")
    refused_at_once("/dev/zero", "no regular file")
    (tmp_path / "circle.mp4").symlink_to(tmp_path / "circle.mp4")
    refused_at_once(tmp_path / "circle.mp4", "There is no video")
    refused_at_once("a\0b.mp4", "There is no video")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.mp4"))
        refused_at_once(tmp_path / "s.mp4", "no regular file")


@pytest.mark.parametrize("kind", ["pipe", "folder", "circle", "device"])
def test_a_folder_of_frames_with_something_else_in_it(tmp_path, kind):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    odd = tmp_path / "1.png"
    {
        "pipe": lambda: os.mkfifo(odd),
        "folder": odd.mkdir,
        "circle": lambda: odd.symlink_to(odd),
        "device": lambda: odd.symlink_to("/dev/zero"),
    }[kind]()
    refused_at_once(tmp_path, "1.png (is no regular file|cannot be opened)")


# memory and pixels


def gif(width: int, height: int) -> bytes:
    """One frame that covers the screen, whose data stop after a few pixels."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + bytes([2, 3, 0x84, 0x51, 0, 0])
    return screen + frame * 10 + b";"


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(1000), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# the package without what llava/__init__.py loads, which takes seconds
LIGHT = f"""
import sys, types
sys.modules["llava"] = types.ModuleType("llava")
sys.modules["llava"].__path__ = [{str(worker_process.WORKER.parents[1])!r}]
"""
MEASURE = (
    LIGHT
    + """
import resource
from llava.video import VideoError, load_video
try:
    print("read", load_video(sys.argv[1], num_frames=8).frames.shape)
except VideoError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""
)


@pytest.mark.parametrize(
    "name, data", [("a.gif", gif(65535, 65535)), ("a.png", png(60000, 60000)), ("folder/1.png", png(60000, 60000))]
)
def test_a_small_file_of_a_huge_picture(tmp_path, name, data):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    started = time.monotonic()
    given = path.parent if "/" in name else path
    run = subprocess.run([sys.executable, "-c", MEASURE, str(given)], capture_output=True, text=True, timeout=60)
    said, mebibytes = run.stdout.splitlines()
    assert said.endswith(".") and ("million pixels" in said or name != "folder/1.png"), said
    assert int(mebibytes) < 400 and time.monotonic() - started < 20


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """One frame of 8K."""
    path = tmp_path_factory.mktemp("large") / "a.mp4"
    encode(path, codec="mpeg4", size=(7680, 4320), frames=1)
    return path


def test_pictures_beyond_4k_are_averaged_down(tmp_path, large):
    video = load_video(large, num_frames=1)
    assert video.frames.shape == (1, 2160, 3840, 3) and number(video.frames[0]) == 0
    for count, (size, shown) in enumerate({(4096, 2304): (2304, 4096), (8000, 4000): (2000, 4000)}.items()):
        folder = tmp_path / str(count)
        folder.mkdir()
        Image.new("RGB", size, (10, 200, 30)).save(folder / "1.png", compress_level=1)
        frame = load_video(folder, num_frames=1).frames[0]
        assert frame.shape == (*shown, 3) and (frame == (10, 200, 30)).all()
    assert FRAME_PIXELS == 4096 * 2304


def test_memory_is_bounded(monkeypatch, tmp_path, large):
    in_worker(tmp_path, monkeypatch, "import llava.decoders.sandbox as c; c.MEMORY = 2**28")
    with pytest.raises(VideoError, match="0.25 GiB of memory"):
        load_video(large, num_frames=1)
    code = LIGHT + "from llava.decoders.sandbox import limit_memory; limit_memory(2**30); bytearray(2**30)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MemoryError" in run.stderr


# the end of the parent

PARENT = (
    LIGHT
    + """
from llava.decoders import worker_process
from llava.video import load_video
worker_process.WORKER = sys.argv[1]
load_video(sys.argv[2], num_frames=4, decoder=sys.argv[3])
"""
)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_decoders_die_with_their_parent(tmp_path, monkeypatch, decoder):
    """Killed with SIGKILL while a decoder is busy."""
    told = tmp_path / "process"
    busy = f"lambda *_, **__: (open({str(told)!r}, 'w').write(str(os.getpid())), time.sleep(60))"
    patch = f"import llava.decoders.sandbox as c; c.limit_open_files = lambda *_: None\nbusy = {busy}\n"
    if decoder == "decord":
        patch += "import decord; decord.VideoReader = busy"
    else:
        patch += "import llava.decoders.container as f; f.find_video_track = busy"
    in_worker(tmp_path, monkeypatch, patch)
    encode(tmp_path / "a.mp4")
    command = [sys.executable, "-c", PARENT, str(worker_process.WORKER), str(tmp_path / "a.mp4"), decoder]
    with subprocess.Popen(command) as parent:
        end = time.monotonic() + 60
        while not (told.exists() and told.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        decoding = int(told.read_text())
        assert alive(decoding)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while alive(decoding) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(decoding)


def test_a_stream_that_is_left_ends_its_decoder(tmp_path):
    encode(tmp_path / "a.mp4", frames=60)
    with open_video(tmp_path / "a.mp4", num_frames=60) as video:
        next(iter(video))
        decoding = video._worker.process.pid
        assert alive(decoding)
    assert not alive(decoding)


def test_no_room_is_made_for_frames_that_would_fill_the_memory(tmp_path, monkeypatch):
    encode(tmp_path / "a.mp4")
    monkeypatch.setattr(worker_process, "MOST_BYTES", 10_000)
    with pytest.raises(VideoError, match="fewer frames"):
        load_video(tmp_path / "a.mp4", num_frames=4)
    assert sandbox.MEMORY == 4 * 2**30 and np.prod((128, 3840, 2160, 3)) < 2**32
