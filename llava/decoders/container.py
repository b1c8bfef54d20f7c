"""Looks at a file's container before anything is decoded: is there a video, and is all of it there?"""

import os
import struct

import av

from llava.decoders.base import VideoError

# FFmpeg draws plain text as if it were a film; such codecs are no video
TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}
PLAYLISTS = {"hls", "concat", "dash", "webm_dash_manifest", "imf", "sdp"}


def open_file(path: str) -> av.container.InputContainer:
    """Opens a file for reading; what it names inside, such as the parts of a playlist, is never fetched."""
    # an absolute path: FFmpeg takes what stands before a colon for a protocol; container_options: PyAV 15
    # crashes on plain options where streams appear late, as in FLV
    return av.open(os.path.abspath(path), container_options={"protocol_whitelist": "file"}, metadata_errors="replace")


def check_container(path: str) -> tuple[str, float]:
    """The container's name in FFmpeg, such as "mpegts", and its length in seconds, 0 when not stated.

    Raises VideoError when the file holds no video stream, is a list of other files, or ends before its own
    header says it does.
    """
    try:
        with open_file(path) as container:
            if container.format.name in PLAYLISTS:
                raise VideoError(f"{path} is a list of other files, not a video; give the video itself.")
            stream = main_stream(container)
            if stream is None:
                raise VideoError(f"{path} has no video in it, only streams such as audio; give a video file.")
            name, seconds = container.format.name, (container.duration or 0) / av.time_base
    except av.error.FFmpegError as error:
        if cut := missing_bytes(path):
            raise VideoError(
                f"{path} is cut short ({cut} bytes missing) and cannot be read; copy or download it again."
            ) from error
        raise VideoError(
            f"{path} is not a video that can be read, or its index is missing because it was cut short; "
            "give a complete video file such as MP4."
        ) from error
    if cut := missing_bytes(path):
        readable, total = count_frames(path)
        lost = f"only {readable} of about {total} frames" if readable < total else f"all but its last {cut} bytes"
        raise VideoError(f"{path} is cut short: {lost} can be read; copy or download it again.")
    return name, seconds


def main_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first real video stream: no cover picture of a song, no text drawn as film."""
    for stream in container.streams.video:
        if stream.codec_context is None or stream.codec_context.name in TEXT_CODECS:
            continue
        if stream.disposition & av.stream.Disposition.attached_pic:
            continue
        return stream
    return None


def count_frames(path: str) -> tuple[int, int]:
    """(frames whose data is in the file, frames its header promises)."""
    with open_file(path) as container:
        stream = main_stream(container)
        promised = stream.frames
        if not promised and container.duration and stream.average_rate:
            promised = round(container.duration / av.time_base * float(stream.average_rate))
        readable = 0
        try:
            for packet in container.demux(stream):
                readable += bool(packet.size)
        except av.error.FFmpegError:
            pass  # the end of what is there
    return readable, max(promised, readable)


def missing_bytes(path: str) -> int:
    """How many bytes of media the headers of an MP4, Matroska or AVI file promise beyond the file's end."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
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


def _mp4_media_end(file, size: int) -> int:
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


def _matroska_end(file) -> int:
    """Where the segment of a Matroska or WebM file ends; 0 when the header leaves it open."""
    file.seek(0)
    _element_id(file)
    header_length = _vint(file)
    if header_length is None:
        return 0
    file.seek(header_length, os.SEEK_CUR)
    if _element_id(file) != b"\x18\x53\x80\x67":
        return 0
    length = _vint(file)
    return 0 if length is None else file.tell() + length


def _element_id(file) -> bytes:
    return file.read(4)


def _vint(file) -> int | None:
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
