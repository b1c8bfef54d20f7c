"""Looks at a file's container before anything is decoded: which of its streams is the video, and is all of it there?"""

import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import av
from av.stream import Disposition

from llava.decoders.base import MOST_PIXELS, VideoError, downscale_factor

# FFmpeg's demuxers that may be used: those that hold their pictures themselves and are no text drawn as a video
FORMATS = (
    "mov,matroska,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,av1,obu,ivf,vc1,dirac,cavsvideo,mjpeg,"
    "mjpeg_2000,gif,apng,ogg,mxf,gxf,nut,dv,rm,wtv,yuv4mpegpipe,jpeg_pipe,png_pipe,bmp_pipe,tiff_pipe,webp_pipe,"
    "gif_pipe"
)
OPTIONS = {"max_pixels": str(MOST_PIXELS)}  # of decoders, also while a file is looked at
CLOSED = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
NOT_VIDEO |= Disposition.dependent  # the tiles that a phone's photo (HEIC) is made of
SUBFILE_TYPE, SUB_IFDS = 254, 330  # tags of TIFF
ASIDE = 1 | 4  # bits of the first: a preview, and a mask
MOST_PAGES = 1000  # of a TIFF file that are looked at


@dataclass(frozen=True)
class VideoTrack:
    """One video stream of a file. container: FFmpeg's name such as "mpegts"; seconds: the stated length, 0 for none.

    alone: whether it is the only video stream.
    """

    path: str
    file: BinaryIO
    container: str
    stream: int
    seconds: float
    alone: bool

    @contextmanager
    def opened(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        """The file from its start, one pass at a time."""
        with open_file(self.file) as container:
            yield container, container.streams[self.stream]


def open_file(file: BinaryIO) -> av.container.InputContainer:
    """Opens a file by its content alone: it has no name for FFmpeg, and what it names inside is never fetched."""
    file.seek(0)
    return av.open(file, options=OPTIONS, container_options=CLOSED, metadata_errors="replace")


def find_video_track(path: str, file: BinaryIO) -> VideoTrack:
    """The video stream of a file that is to be read.

    Raises VideoError when the file holds no video stream, is of no known format, has too large pictures, or ends
    before its own header says it does.
    """
    previews = _tiff_previews(file)
    if previews[:1] == [True] or previews.count(False) > 1:
        raise VideoError(
            f"{path} is a TIFF file of {len(previews)} pictures, of which the first alone would be read; save what is "
            "meant as PNG, or several as a folder of PNG pictures."
        )
    try:
        with open_file(file) as container:
            stream = _choose_stream(container)
            if stream is None:
                what = "only streams such as audio or the tiles of a photo"
                raise VideoError(f"{path} has no video in it, {what}; give a video file.")
            downscale_factor(path, stream.codec_context.width, stream.codec_context.height)
            seconds = max(0, container.duration or 0) / av.time_base
            alone = len(container.streams.video) == 1
            track = VideoTrack(path, file, container.format.name, stream.index, seconds, alone)
    except av.error.FFmpegError as error:
        if cut := missing_bytes(file):
            raise VideoError(
                f"{path} is cut short ({cut} bytes missing) and cannot be read; copy or download it again."
            ) from error
        raise VideoError(
            f"{path} is not a video that can be read, or its index is missing because it was cut short; "
            "give a complete video file such as MP4."
        ) from error
    if cut := missing_bytes(file):
        readable, total = count_frames(track)
        lost = f"only {readable} of about {total} frames" if readable < total else f"all but its last {cut} bytes"
        raise VideoError(f"{path} is cut short: {lost} can be read; copy or download it again.")
    return track


def _choose_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The default video stream that moves, else the first: no cover picture of a song, no still in front of a video."""
    streams = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & NOT_VIDEO]
    if len(streams) > 1:
        packets: Counter[int] = Counter()
        for packet in container.demux(*streams):
            packets[packet.stream_index] += bool(packet.size)
            if min(packets[s.index] for s in streams) > 1:
                break
        streams = [s for s in streams if packets[s.index] > 1] or streams
    first = streams[0] if streams else None
    return next((s for s in streams if s.disposition & Disposition.default), first)


def count_frames(track: VideoTrack) -> tuple[int, int]:
    """(frames whose data is in the file, frames its header promises)."""
    with track.opened() as (container, stream):
        promised = stream.frames
        if not promised and track.seconds and stream.average_rate:
            promised = round(track.seconds * float(stream.average_rate))
        readable = 0
        try:
            for packet in container.demux(stream):
                readable += bool(packet.size)
        except av.error.FFmpegError:
            pass  # the end of what is there
    return readable, max(promised, readable)


def missing_bytes(file: BinaryIO) -> int:
    """How many bytes of media the headers of an MP4, Matroska or AVI file promise beyond the file's end."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        end = 8 + struct.unpack("<I", head[4:8])[0]
    elif head[:4] == b"\x1aE\xdf\xa3":
        end = _matroska_end(file)
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        end = _mp4_media_end(file, size)
    else:
        return 0
    return max(0, end - size)


def _tiff_previews(file: BinaryIO) -> list[bool]:
    """Of each picture of a TIFF file, whether it is another's preview or mask; none where FFmpeg looks itself."""
    file.seek(0)
    head = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        return []
    found, (place,) = [], struct.unpack(f"{order}I", head[4:])
    while place and len(found) < MOST_PAGES:
        file.seek(place)
        data = file.read(2)
        count = struct.unpack(f"{order}H", data)[0] if len(data) == 2 else 0
        data = file.read(12 * count + 4)
        if len(data) < 12 * count + 4:  # damaged
            return []
        fields = [struct.unpack_from(f"{order}HHI4s", data, 12 * number) for number in range(count)]
        tags = {tag: value for tag, _, _, value in fields}
        if SUB_IFDS in tags:
            return []
        found.append(bool(struct.unpack(f"{order}I", tags.get(SUBFILE_TYPE, bytes(4)))[0] & ASIDE))
        (place,) = struct.unpack_from(f"{order}I", data, 12 * count)
    return found


def _mp4_media_end(file: BinaryIO, size: int) -> int:
    """Where the last media box of an MP4 or QuickTime file ends, by its own length field."""
    offset = 0
    while offset + 8 <= size:
        file.seek(offset)
        length, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if length == 1:
            wide = file.read(8)
            if len(wide) < 8:
                return offset + 16
            length, header = struct.unpack(">Q", wide)[0], 16
        if length < header:  # 0: the box runs to the end of the file
            return size
        if offset + length > size:
            return offset + length if kind in (b"mdat", b"moof") else size
        offset += length
    return size


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment of a Matroska or WebM file ends; 0 when the header leaves it open."""
    file.seek(4)
    header_length = _vint(file)
    if header_length is None:
        return 0
    file.seek(header_length, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length = _vint(file)
    return 0 if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """An EBML length; None when unknown (all ones) or not there."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra = 8 - first[0].bit_length()
    rest = file.read(extra)
    if len(rest) < extra:
        return None
    bits = 7 * (extra + 1)
    value = int.from_bytes(first + rest, "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
