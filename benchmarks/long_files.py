"""Longer files of the kinds that decoders go wrong on when few frames are asked for; as `odd_files` writes them.

Their pictures show their number, so a frame that is off by one is seen.
"""

import struct
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from benchmarks.odd_files import AV1, SIZE, Writer, encode, encoded, picture, stored

DATA = Path(__file__).parents[1] / "tests" / "data" / "video"  # what FFmpeg's encoders do not make in one pass
FRAMES = 300
RATE = 25
QUIET = "log-level=none:"
START = 83  # frame at which `trimmed` files begin


def trimmed(path: Path, *, muxer: dict[str, str] | None = None, **settings: object) -> None:
    """Cut without encoding anew: what the first frame needs stays in front of it, at times below zero."""
    whole = path.with_name("whole.mp4")
    encode(whole, frames=FRAMES, rate=RATE, gop=64, **settings)
    with av.open(str(whole)) as source, av.open(str(path), "w", options=muxer or {}) as out:
        copies = {stream: out.add_stream_from_template(stream) for stream in source.streams}
        film = source.streams.video[0]
        zero = Fraction(START, RATE)
        key = max(p.pts for p in source.demux(film) if p.is_keyframe and p.pts * film.time_base <= zero)
        source.seek(key, stream=film)
        for packet in source.demux():
            if packet.dts is None:
                continue
            shift = int(zero / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copies[packet.stream]
            out.mux(packet)


def tail_hidden(path: Path) -> None:
    """An MP4 whose edit list ends after 200 frames."""
    encode(path, frames=FRAMES, rate=RATE)
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12
    length = struct.unpack(">I", data[entry : entry + 4])[0]
    data[entry : entry + 4] = struct.pack(">I", length * 200 // FRAMES)
    path.write_bytes(data)


def streams(path: Path, films: list[tuple[int, int]], default: int) -> None:
    """Several video streams of (first number, frames), one of them the default; a film of one frame is a JPEG."""
    with av.open(str(path), "w") as out:
        made = []
        for count, (_, frames) in enumerate(films):
            codec, pix_fmt = ("libx264", "yuv420p") if frames > 1 else ("mjpeg", "yuvj420p")
            stream = out.add_stream(codec, rate=RATE)
            stream.width, stream.height, stream.pix_fmt = *SIZE, pix_fmt
            stream.disposition = av.stream.Disposition.default if count == default else av.stream.Disposition(0)
            made.append(stream)
        for stream, (first, frames) in zip(made, films, strict=True):
            for number in range(frames):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(first + number), format="rgb24")))
            out.mux(stream.encode(None))


def doubled_times(path: Path) -> None:
    """A varying rate in which one time comes twice."""
    times = np.cumsum([0, *[20] * 99, 0, *[200] * 100, *[40] * 99]).tolist()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")):
                packet.pts = packet.dts = times[number]
                packet.time_base = Fraction(1, 1000)
                out.mux(packet)


def animation(path: Path) -> None:
    """An animated WebP or AVIF file."""
    first, *others = [Image.fromarray(picture(number)) for number in range(FRAMES)]
    first.save(path, save_all=True, append_images=others, duration=1000 // RATE, quality=90)


_with = partial(encoded, frames=FRAMES, rate=RATE)


def _x265(options: str) -> dict[str, object]:
    return {"codec": "libx265", "options": {"x265-params": QUIET + options}}


_DOUBLE = {"bf": "2"}
_OPEN = "open-gop=1:bframes=3:keyint=30"


def decoding_times(path: Path) -> None:
    """H.264 with B-frames whose container gives decoding times for those of presentation, as some encoders do."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"bf": "3", "g": "60"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        packets = [p for number in range(FRAMES) for p in stream.encode(av.VideoFrame.from_ndarray(picture(number)))]
        for number, packet in enumerate([*packets, *stream.encode(None)]):
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, RATE)
            out.mux(packet)


# description -> (file name, writer, number of the first frame shown, frames)
LONG: dict[str, tuple[str, Writer, int, int]] = {
    "MP4 cut without encoding, start hidden by an edit list": ("a.mp4", trimmed, 83, 217),
    "the same with sound": ("a.mp4", lambda path: trimmed(path, sound=True), 83, 217),
    "the same in QuickTime": ("a.mov", trimmed, 83, 217),
    "the same in Matroska: times below zero are missing": (
        "a.mkv", lambda path: trimmed(path, muxer={"avoid_negative_ts": "disabled"}), 64, 236
    ),
    "MP4 whose end an edit list hides": ("a.mp4", tail_hidden, 0, 200),
    "H.264 with B-frames": ("a.mp4", _with(gop=60, options={"bf": "3"}), 0, FRAMES),
    "H.264 with B-frames, decoding times for those of presentation": ("a.mp4", decoding_times, 0, FRAMES),
    "H.264, open groups": ("a.mp4", _with(gop=30, options={"x264-params": _OPEN}), 0, FRAMES),
    "H.264, no keyframes but a moving refresh": (
        "a.mkv", _with(gop=30, options={"x264-params": "intra-refresh=1:keyint=30:bframes=0"}), 0, FRAMES
    ),
    "HEVC, closed groups": ("a.mp4", _with(**_x265("open-gop=0:keyint=30")), 0, FRAMES),
    "HEVC, open groups": ("a.mp4", _with(**_x265(_OPEN)), 0, FRAMES),
    "HEVC, open groups, transport stream": ("a.ts", _with(**_x265(_OPEN)), 0, FRAMES),
    "VP8 with hidden frames": ("a.webm", stored(DATA / "vp8_altref.webm"), 0, FRAMES),
    "VP9": ("a.webm", _with(codec="libvpx-vp9", gop=30, options={"cpu-used": "8"}), 0, FRAMES),
    "AV1": ("a.mp4", stored(AV1 / "av1_long.mp4"), 0, FRAMES),
    "MPEG-4 with B-frames": ("a.mp4", _with(codec="mpeg4", options=_DOUBLE), 0, FRAMES),
    "MPEG-4 in AVI": ("a.avi", _with(codec="mpeg4"), 0, FRAMES),
    "MPEG-4 with B-frames in AVI": ("a.avi", _with(codec="mpeg4", options=_DOUBLE), 0, FRAMES),
    "MPEG-2 with B-frames in QuickTime": ("a.mov", _with(codec="mpeg2video", options=_DOUBLE), 0, FRAMES),
    "MPEG-2 with B-frames in MXF": ("a.mxf", _with(codec="mpeg2video", options=_DOUBLE), 0, FRAMES),
    "MPEG-2 program stream with B-frames": ("a.mpg", _with(codec="mpeg2video", options=_DOUBLE), 0, FRAMES),
    "MPEG-4 in AVI, two pictures in a packet": ("a.avi", stored(DATA / "avi_xvid_packed.avi"), 0, FRAMES),
    "H.264 with B-frames in AVI": ("a.avi", _with(gop=60, options={"bf": "3"}), 0, FRAMES),
    "H.264 without B-frames in AVI": ("a.avi", _with(gop=60, options={"bf": "0"}), 0, FRAMES),
    "H.264 with B-frames in Flash": ("a.flv", _with(gop=60, options={"bf": "3"}), 0, FRAMES),
    "H.264 with B-frames, no container": ("a.h264", _with(gop=60, options={"bf": "3"}), 0, FRAMES),
    "HEVC, no container": ("a.hevc", _with(container="hevc", **_x265(_OPEN)), 0, FRAMES),
    "WMV": ("a.wmv", _with(codec="wmv2"), 0, FRAMES),
    "Motion JPEG in AVI": ("a.avi", _with(codec="mjpeg", pix_fmt="yuvj420p"), 0, FRAMES),
    "GIF": ("a.gif", _with(codec="gif", pix_fmt="rgb8"), 0, FRAMES),
    "animated WebP": ("a.webp", animation, 0, FRAMES),
    "animated AVIF": ("a.avif", animation, 0, FRAMES),
    "a varying rate with one time twice": ("a.mkv", doubled_times, 0, FRAMES),
    "a still picture before the film": ("a.mkv", lambda path: streams(path, [(900, 1), (0, 300)], 0), 0, FRAMES),
    "two films, the second is the default": ("a.mkv", lambda path: streams(path, [(500, 290), (0, 300)], 1), 0, FRAMES),
}  # fmt: skip
