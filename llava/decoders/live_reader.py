"""Reads a source that goes on, in the decoder's process: standard input, a camera, a folder that grows, or a film."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import av
import av.subtitles.codeccontext
import av.subtitles.stream  # PyAV would load these two late, when nothing can be opened any more
import numpy as np

from llava.decoders.base import DecoderFailed, VideoError, downscale_factor, is_camera
from llava.decoders.container import OPTIONS
from llava.decoders.pillow_reader import natural, picture_files, read_picture
from llava.decoders.pyav_reader import FrameConverter
from llava.decoders.sandbox import limit_open_files

# of a camera, beside which FFmpeg may open nothing; RTSP and its pictures share one connection
PROTOCOLS = {"protocol_whitelist": "rtsp,rtp,tcp"}
CONNECTING = 10.0  # seconds a camera may take to answer
POLL = 0.5  # seconds between two looks into a folder
UNFINISHED = 2.0  # seconds a picture may take to be written
NO_PICTURE = 2**26  # bytes of standard input without a picture, after which there is none


class Pace:
    """True at most fps times a second."""

    def __init__(self, fps: float):
        self.step, self.next = 1 / fps, 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self.next:
            return False
        self.next = max(self.next + self.step, now)
        return True


def live_pictures(source: str, settings: dict, note: Callable[[str], None]) -> Iterator[np.ndarray]:
    """Pictures (H,W,3) as they come, those of a folder one and all, of others no more than fps a second.

    settings: fps; of standard input its descriptor "input", and of raw pictures "size", (width, height). note: takes a
    sentence about what was passed over.
    Raises VideoError for what will never be a source, DecoderFailed where one is lost.
    """
    due = Pace(settings["fps"])
    if source != "-" and not is_camera(source):
        yield from growing_folder(source, note)
        return
    if source != "-":
        yield from camera(source, due)
        return
    limit_open_files()
    with os.fdopen(settings["input"], "rb", buffering=0) as file:
        yield from raw(file, *settings["size"], due) if settings["size"] else mjpeg(file, due)


def raw(file: BinaryIO, width: int, height: int, due: Pace) -> Iterator[np.ndarray]:
    """Pictures of RGB bytes, a row after the other."""
    factor, picture = downscale_factor("Standard input", width, height), bytearray(width * height * 3)
    while True:
        filled = 0
        while filled < len(picture) and (count := file.readinto(memoryview(picture)[filled:])):
            filled += count
        if filled < len(picture):
            if filled:
                raise VideoError(f"Standard input ended inside a picture of {width}x{height}; check --size.")
            return
        if due():
            pixels = np.frombuffer(picture, np.uint8).reshape(height, width, 3)
            yield pixels[::factor, ::factor].copy()


def mjpeg(file: BinaryIO, due: Pace) -> Iterator[np.ndarray]:
    """Pictures of JPEG files one behind the other."""
    codec, nothing = av.CodecContext.create("mjpeg", "r"), True
    codec.options, codec.thread_count = OPTIONS, 1

    def packets() -> Iterator[av.Packet]:
        read = 0
        while (chunk := file.read(2**16)) and not (nothing and read > NO_PICTURE):
            read += len(chunk)
            yield from codec.parse(chunk)
        yield from codec.parse(None)

    for picture in decoded(packets(), codec, "Standard input", due):
        nothing = False
        yield picture
    if nothing:
        raise VideoError("Standard input holds no JPEG picture; give MJPEG, or raw RGB with --size WIDTHxHEIGHT.")


def camera(source: str, due: Pace) -> Iterator[np.ndarray]:
    """Pictures of an RTSP or V4L2 source until it is lost."""
    if source.startswith("rtsp://"):
        opening = {"format": "rtsp", "container_options": PROTOCOLS | {"rtsp_transport": "tcp"}}
    else:
        opening = {"format": "video4linux2"}
    try:
        with av.open(source, options=OPTIONS, timeout=(CONNECTING, CONNECTING), **opening) as container:
            limit_open_files()
            if not container.streams.video:
                raise VideoError(f"{source} sends no video; give the address of a camera.")
            stream = container.streams.video[0]
            stream.codec_context.options = OPTIONS
            yield from decoded(container.demux(stream), stream.codec_context, source, due)
    except av.error.FFmpegError as error:
        raise DecoderFailed(error.strerror or str(error)) from error
    raise DecoderFailed("it ended")


def decoded(packets: Iterable[av.Packet], codec: av.VideoCodecContext, source: str, due: Pace) -> Iterator[np.ndarray]:
    """Pictures (H,W,3) of the frames that are due, each of its own size; a damaged packet gives none."""
    size: tuple[int, int] | None = None
    for packet in packets:
        try:
            frames = codec.decode(packet)
        except av.error.InvalidDataError:
            continue
        for frame in frames:
            if (frame.width, frame.height) != size:
                size, converter = (frame.width, frame.height), FrameConverter(source)
            if due():
                yield converter(frame)


def growing_folder(path: str, note: Callable[[str], None]) -> Iterator[np.ndarray]:
    """Pictures in the order of their names, each once; what comes with a name before the last one is passed over."""
    last, gone = None, False
    while True:
        try:
            files = picture_files(path)
        except OSError:
            files = []
            if not gone:
                note(f"The folder {path} is gone; it is looked for again.")
        gone = not os.path.isdir(path)
        for file in files:
            if last is not None and natural(file) <= natural(last):
                continue
            try:
                unfinished = time.time() - file.stat().st_mtime < UNFINISHED
                picture, _ = read_picture(file)
            except FileNotFoundError:
                continue
            except VideoError as error:
                if unfinished:
                    break
                note(str(error))
            else:
                yield picture
            last = file
        time.sleep(POLL)
