"""Video files of every odd kind, made with PyAV, whose pictures say which frame they are.

A picture is BITS vertical stripes, white for 1 and black for 0: the number is read back whatever a codec does
to colours.
"""

import shutil
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
FRAMES = 24
SIZE = (80, 48)  # width, height
AV1 = Path(__file__).with_name("data")  # PyAV's encoder of AV1 takes real-time priority from all others as root


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H,W,3) uint8 stripes, the highest bit on the left; the upper quarter of each is grey."""
    bits = [number >> bit & 1 for bit in reversed(range(BITS))]
    row = np.repeat(np.array(bits, np.uint8) * 215 + 20, -(-size[0] // BITS))[: size[0]]
    frame = np.broadcast_to(row[None, :, None], (size[1], size[0], 3)).copy()
    frame[: size[1] // 4] = 128
    return frame


def number(frame: np.ndarray) -> int:
    """The number that a picture (H,W,3) shows."""
    height, width = frame.shape[:2]
    lower = frame[height // 2 :].mean(axis=(0, 2))
    wide = -(-width // BITS)
    value = 0
    for stripe in range(BITS):
        middle = stripe * wide + max(0, min(wide, width - stripe * wide) // 2)
        value = value * 2 + int(lower[min(middle, width - 1)] > 128)
    return value


def encode(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    frames: int = FRAMES,
    first: int = 0,
    rate: int | Fraction = 10,
    gop: int = 8,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container: str | None = None,
    muxer: dict[str, str] | None = None,
    sound: bool = False,
    noise: bool = False,
    title: str | None = None,
) -> None:
    """Writes pictures from number `first` on. times: milliseconds of each, for a varying rate. noise: large packets."""
    noisy = np.random.default_rng(0)
    with av.open(str(path), "w", format=container, options=muxer or {}) as out:
        voice = out.add_stream("aac", rate=16000, layout="mono") if sound else None
        if title is not None:
            out.metadata["title"] = title
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, pix_fmt, gop
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if voice is not None:
            _tone(out, voice)
        for index in range(frames):
            pixels = picture(first + index, size)
            if noise:
                pixels = (pixels - pixels // 4) + noisy.integers(0, 60, pixels.shape, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def tone(path: Path) -> None:
    """One second of sound and no picture."""
    with av.open(str(path), "w") as out:
        _tone(out, out.add_stream("aac", rate=16000, layout="mono"))


def _tone(out: av.container.OutputContainer, stream: av.AudioStream) -> None:
    for start in range(0, 16000, 1024):
        wave = np.sin(np.arange(start, start + 1024) / 20)[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def turned(path: Path, matrix: tuple[float, float, float, float], **settings: object) -> None:
    """An MP4 whose header turns or mirrors the picture, as phones write it.

    matrix: (a, b, c, d), by which (x, y) is shown at (ax + cy, bx + dy). settings: of `encode`.
    """
    encode(path, **settings)
    data = bytearray(path.read_bytes())
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    start = data.index(upright, data.index(b"tkhd"))
    a, b, c, d = (round(value * (1 << 16)) for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def two_sizes(path: Path) -> None:
    """Raw H.264 whose picture changes its size in the middle."""
    parts = []
    for size, first in ((SIZE, 0), ((160, 96), 12)):
        part = path.with_suffix(f".{first}")
        encode(part, size=size, frames=12, first=first, container="h264")
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))


def foreign_title(path: Path) -> None:
    """A file whose title is not in UTF-8, as old programs write them."""
    encode(path, title="Caption")
    path.write_bytes(path.read_bytes().replace(b"Caption", "Café été".encode("latin-1")[:7]))


def playlist(path: Path) -> None:
    """A playlist whose only part can be read."""
    encode(path.with_name("part.ts"))
    path.write_bytes(_PLAYLIST % b"part.ts")


def long(path: Path) -> None:
    """Ten hours at one frame a minute."""
    # large pictures, whatever the encoder makes of so low a rate
    fine = {"size": (320, 240), "noise": True, "options": {"qmin": "2", "qmax": "2"}}
    encode(path, codec="mjpeg", pix_fmt="yuvj420p", frames=600, rate=Fraction(1, 60), **fine)


Writer = Callable[[Path], object]


def encoded(**settings: object) -> Writer:
    return lambda path: encode(path, **settings)


def stored(source: Path) -> Writer:
    """A file that lies ready."""
    return lambda path: shutil.copyfile(source, path)


HEVC = {"codec": "libx265", "options": {"x265-params": "log-level=none"}}
VARYING = np.cumsum([0, *[40] * 17, *[1000] * 6]).tolist()  # milliseconds

# what can be read: description -> (file name, writer)
READABLE: dict[str, tuple[str, Writer]] = {
    "H.264": ("a.mp4", encoded()),
    "H.264, index in front": ("a.mp4", encoded(muxer={"movflags": "faststart"})),
    "H.264, fragmented": ("a.mp4", encoded(muxer={"movflags": "frag_keyframe+empty_moov"})),
    "H.264 in Matroska": ("a.mkv", encoded()),
    "H.264 transport stream": ("a.ts", encoded()),
    "H.264 without a container": ("a.h264", encoded(container="h264")),
    "H.264, sound before the picture": ("a.mp4", encoded(sound=True)),
    "HEVC": ("a.mp4", encoded(**HEVC)),
    "HEVC, 10 bit": ("a.mkv", encoded(pix_fmt="yuv420p10le", **HEVC)),
    "HEVC, 12 bit 4:4:4": ("a.mkv", encoded(pix_fmt="yuv444p12le", **HEVC)),
    "AV1": ("a.mp4", stored(AV1 / "av1.mp4")),
    "AV1, 10 bit": ("a.webm", stored(AV1 / "av1_10bit.webm")),
    "VP8": ("a.webm", encoded(codec="libvpx")),
    "VP9": ("a.webm", encoded(codec="libvpx-vp9", options={"cpu-used": "8"})),
    "VP9 with alpha": ("a.webm", encoded(codec="libvpx-vp9", pix_fmt="yuva420p", options={"cpu-used": "8"})),
    "VP9, odd size 83x51": ("a.webm", encoded(codec="libvpx-vp9", size=(83, 51), options={"cpu-used": "8"})),
    "H.264, odd size 83x51": ("a.mp4", encoded(pix_fmt="yuv444p", size=(83, 51))),
    "H.264, 10 bit": ("a.mp4", encoded(pix_fmt="yuv420p10le")),
    "H.264, grey": ("a.mp4", encoded(pix_fmt="gray")),
    "FFV1, grey 16 bit": ("a.mkv", encoded(codec="ffv1", pix_fmt="gray16le")),
    "Animation (qtrle) with alpha": ("a.mov", encoded(codec="qtrle", pix_fmt="argb")),
    "PNG in QuickTime with alpha": ("a.mov", encoded(codec="png", pix_fmt="rgba")),
    "ProRes 4444 with alpha": ("a.mov", encoded(codec="prores_ks", pix_fmt="yuva444p10le")),
    "GIF": ("a.gif", encoded(codec="gif", pix_fmt="rgb8")),
    "MPEG-4": ("a.avi", encoded(codec="mpeg4")),
    "Motion JPEG": ("a.avi", encoded(codec="mjpeg", pix_fmt="yuvj420p")),
    "MPEG-2": ("a.mpg", encoded(codec="mpeg2video", rate=25)),
    "WMV": ("a.wmv", encoded(codec="wmv2")),
    "Flash": ("a.flv", encoded(codec="flv")),
    "RealMedia": ("a.rm", encoded(codec="rv20", size=(176, 144))),
    "2000 wide, 16 high": ("a.mp4", encoded(size=(2000, 16))),
    "20 wide, 16 high": ("a.mp4", encoded(size=(20, 16))),
    "one frame": ("a.mp4", encoded(frames=1)),
    "varying rate": ("a.mp4", encoded(times=VARYING)),
    "varying rate in Matroska": ("a.mkv", encoded(times=VARYING)),
    "times that start at 5 s": ("a.mkv", encoded(times=list(range(5000, 5000 + 24 * 100, 100)))),
    "turned by 90°": ("a.mp4", lambda path: turned(path, (0, 1, -1, 0))),
    "turned by 180°": ("a.mp4", lambda path: turned(path, (-1, 0, 0, -1))),
    "turned by 270°": ("a.mp4", lambda path: turned(path, (0, -1, 1, 0))),
    "size changes in the middle": ("a.h264", two_sizes),
    "MP4 called .avi": ("a.avi", encoded(container="mp4")),
    "WebM called .mp4": ("a.mp4", encoded(codec="libvpx", container="webm")),
    "MP4 called .txt": ("a.txt", encoded(container="mp4")),
    "a name with a colon": ("lecture:1.mp4", encoded()),
    "a name of spaces, signs and letters of many scripts": ("-мой % видео #1 日本.mp4", encoded()),
    "a title that is not UTF-8": ("a.mkv", foreign_title),
    "ten hours, a frame a minute": ("a.mp4", long),
}
# how a readable file's pictures are turned: quarter turns, counter-clockwise
TURNS = {"turned by 90°": 3, "turned by 180°": 2, "turned by 270°": 1}


def _bytes(data: bytes) -> Writer:
    return lambda path: path.write_bytes(data)


_PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n%s\n#EXT-X-ENDLIST\n"

# what must be refused in one sentence
REFUSED: dict[str, tuple[str, Writer]] = {
    "no bytes": ("a.mp4", _bytes(b"")),
    "one byte": ("a.mp4", _bytes(b"\0")),
    "zeros": ("a.mp4", _bytes(bytes(100_000))),
    "noise": ("a.mp4", _bytes(np.random.default_rng(0).bytes(100_000))),
    "a text": ("a.mp4", _bytes(b"These are words and not pictures.\n" * 50)),
    "a web page": ("a.mp4", _bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")),
    "an archive": ("a.zip", _bytes(b"PK\3\4" + bytes(500))),
    "a program": ("a.mp4", _bytes(b"\x7fELF" + bytes(5000))),
    "sound alone": ("a.m4a", tone),
    "sound called .mp4": ("a.mp4", tone),
    "only the first bytes of an MP4": ("a.mp4", _bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41")),
    "a playlist that names a file": ("a.m3u8", _bytes(_PLAYLIST % b"/etc/hostname")),
    "a playlist that names an address": ("a.m3u8", _bytes(_PLAYLIST % b"http://127.0.0.1:9/part.ts")),
    "a playlist that names a video beside it": ("a.m3u8", playlist),
    "a list of files to join": ("a.mp4", _bytes(b"ffconcat version 1.0\nfile a.ts\n")),
}

# whole files to be cut: frames a second, and whether the container tells a cut from an end
CUT: dict[str, tuple[str, Writer, int, bool]] = {
    "MP4": ("a.mp4", encoded(), 10, True),
    "MP4, index in front": ("a.mp4", encoded(muxer={"movflags": "faststart"}), 10, True),
    "Matroska": ("a.mkv", encoded(), 10, True),
    "WebM": ("a.webm", encoded(codec="libvpx"), 10, True),
    "AVI": ("a.avi", encoded(codec="mpeg4"), 10, True),
    "QuickTime": ("a.mov", encoded(codec="mjpeg", pix_fmt="yuvj420p"), 10, True),
    "MP4, fragmented": ("a.mp4", encoded(muxer={"movflags": "frag_keyframe+empty_moov"}), 10, False),
    "transport stream": ("a.ts", encoded(), 10, False),
    "MPEG-2": ("a.mpg", encoded(codec="mpeg2video", rate=25), 25, False),
    "Flash": ("a.flv", encoded(codec="flv"), 10, False),
    "WMV": ("a.wmv", encoded(codec="wmv2"), 10, False),
    "GIF": ("a.gif", encoded(codec="gif", pix_fmt="rgb8"), 10, False),
}
