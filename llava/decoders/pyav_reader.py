"""Reads chosen frames with PyAV: one pass over the packets for the times, then seeks to keyframes."""

import os
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation

from llava.decoders.base import Ask, VideoError, downscale_factor, plausible_times
from llava.decoders.container import OPTIONS, VideoTrack

# beyond this, a video of constant rate is not gone through packet by packet
LONG = 1800.0  # seconds
# containers whose headers state length and rate reliably enough to be tried without a pass over all packets
INDEXED = ("mov,mp4", "matroska")
THREADS = 8  # at most; each holds pictures of its own in memory
HEAD = 20  # frames looked at for their order: more than H.264 and HEVC may hold back, which is 16

# a display matrix puts pixel (x, y) at (a x + c y, b x + d y); (a, b, c, d) of the four turns and the four mirrors
TURNS = np.array([(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
MIRRORS = np.array([(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
IDENTITY = tuple(TURNS[0])
# what FFmpeg knows to lie beside a frame and PyAV does not, such as EXIF, would end the reading of all of it
Type._missing_ = classmethod(lambda kinds, _: kinds.VIDEO_HINT)


class MissingFrame(VideoError):
    """A frame that the packets promise does not come."""


@dataclass(frozen=True)
class Index:
    """All frames of a track: times (N,) s from the first one; rate a second.

    stamps: (N,) presentation times in the stream's units, rising; None where packets do not say which frame they
    become, so that frames are counted. keys: stamps of keyframes. hidden: packets that show nothing. leading: does a
    frame after a keyframe come before it on the screen? reordered: do times fall from packet to packet? upright: is
    there no turn or mirror? damaged: did something not decode, as far as it was tried?
    """

    times: np.ndarray
    rate: float
    stamps: list[int] | None = None
    keys: tuple[int, ...] = ()
    hidden: int = 0
    leading: bool = False
    reordered: bool = False
    upright: bool = True
    damaged: bool = False


def read_pyav(track: VideoTrack, ask: Ask, *, trust_header: bool) -> Iterator[np.ndarray]:
    """Frames (H,W,3) that `ask` names, each once and in order; from the first again when it is asked once more.

    trust_header: a long video of constant rate may be read without a pass over its packets. When that fails, and
    where packets turn out to show nothing, `ask` is asked again with other times.
    Raises VideoError when a frame cannot be delivered.
    """
    picture = FrameConverter(track.path)
    if trust_header and track.seconds > LONG and track.container.startswith(INDEXED):
        whole = yield from _read_by_header(track, ask, picture)
        if whole:
            return
    index = index_packets(track)
    wanted = ask(index.times, index.rate)
    if index.stamps is None:
        yield from _read_in_order(track, index, wanted, picture)
        return
    try:
        yield from _read_by_seeking(track, index, wanted, picture)
    except MissingFrame:
        seen = index_frames(track)
        if seen.damaged:
            raise
        yield from _read_in_order(track, seen, ask(seen.times, seen.rate), picture)


def index_packets(track: VideoTrack) -> Index:
    """What the packets say about the frames; decodes only where they do not say enough."""
    shown, keys, hidden = [], [], 0
    with track.opened() as (container, stream):
        vp8 = stream.codec_context.name == "vp8"
        for packet in container.demux(stream):
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)  # a hidden one too: what is shown may lean on it
            if packet.is_discard or (vp8 and packet.size and not memoryview(packet)[0] & 0x10):
                hidden += 1  # cut off by an edit list, or a picture that others are made from
            elif packet.size:
                shown.append((packet.pts, packet.dts, packet.is_keyframe))
        base, rate = stream.time_base, float(stream.average_rate or 0)
        reorders = stream.codec_context.has_b_frames
    order = [pts for pts, _, _ in shown]
    rising = None not in order and order == sorted(order)
    # a recording cut inside a picture group starts with orphans; and the frames of a file that states decoding times
    # alone come out in another order than its times
    with track.opened() as (container, stream):
        head = list(islice(_frames(container, stream), HEAD if reorders and rising else 1))
    first, stamps = head[0] if head else None, [frame.pts for frame in head]
    unknown = None in (first, *stamps, *order)
    if unknown or stamps != sorted(stamps) or len(set(order)) < len(order) or _times_are_guessed(track, shown):
        return index_frames(track)
    stamps = sorted(pts for pts in order if pts >= first.pts)
    latest, leading = order[0], False
    for pts, _, key in shown:
        latest = pts if key else latest
        leading |= pts < latest
    return Index(
        *_clock(track, stamps, base, rate),
        stamps=stamps,
        keys=tuple(sorted(keys)),
        hidden=hidden + len(order) - len(stamps),
        leading=leading,
        upright=display_transform(first) == IDENTITY,
        reordered=not rising,
    )


def index_frames(track: VideoTrack) -> Index:
    """What decoding says about the frames; each counts."""
    damage: list[Exception] = []
    with track.opened() as (container, stream):
        frames = [(frame.pts, frame.is_corrupt) for frame in _frames(container, stream, damage)]
        base, rate = stream.time_base, float(stream.average_rate or 0)
    if not frames:
        raise VideoError(f"{track.path} holds no frame that can be decoded; convert it to MP4 with H.264.")
    times, rate = _clock(track, [stamp for stamp, _ in frames], base, rate)
    return Index(times, rate, damaged=bool(damage) or any(corrupt for _, corrupt in frames))


def first_after(container: av.container.InputContainer, stream: av.VideoStream, key: int) -> int | None:
    """Stamp of the first frame that decodes after a seek to a keyframe: its own, unless that one leans on others."""
    container.seek(key, stream=stream)
    return next((frame.pts for frame in _frames(container, stream)), None)


def _times_are_guessed(track: VideoTrack, packets: list[tuple]) -> bool:
    """Does the container store decoding times alone, of which FFmpeg has guessed those of presentation?"""
    delays = {pts - dts for pts, dts, _ in packets if dts is not None} or {0}
    if track.container == "avi":
        return delays != {0}
    return track.container.startswith("matroska") and len(delays) == 1 and delays != {0}


def _clock(track: VideoTrack, stamps: Sequence[int | None], base: Fraction, rate: float) -> tuple[np.ndarray, float]:
    """(times (N,) in seconds from the first frame, rate): by the stamps, by the rate where they cannot be true."""
    count = len(stamps)
    known = np.array([number for number, stamp in enumerate(stamps) if stamp is not None])
    seconds = np.array([float(stamp * base) for stamp in stamps if stamp is not None])
    if not rate > 0:
        span = seconds[-1] - seconds[0] if len(known) > 1 else 0.0
        rate = float((known[-1] - known[0]) / span) if span > 0 else 25.0
    even = np.arange(count) / rate
    if not len(known):
        return even, rate
    # frames without a time lie evenly between their neighbours, at the ends at the rate
    offsets = np.interp(np.arange(count), known, seconds - even[known])
    times = even + offsets
    times[known] = seconds
    times -= times[0]
    return (times if plausible_times(times, rate, track.seconds) else even), rate


def _frames(container, stream, damage: list | None = None) -> Iterator[av.VideoFrame]:
    """Decoded frames in display order; a damaged packet yields nothing and the rest goes on."""
    codec = stream.codec_context
    if not codec.is_open:
        codec.options, codec.thread_type = OPTIONS, "AUTO"
        codec.thread_count = min(os.cpu_count() or 1, THREADS)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.error.InvalidDataError as error:
            if damage is not None:
                damage.append(error)


def display_transform(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the turn or mirror nearest to the frame's display matrix."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return IDENTITY
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(float)
    among = MIRRORS if a * d < b * c else TURNS
    return tuple(among[np.argmax(among @ np.array([a, b, c, d]))])


class FrameConverter:
    """Converts the frames of one track.

    Colours are those of swscale: by the matrix and range that the stream states, as BT.601 and limited range where it
    states none, as ffmpeg does. HDR is not mapped to SDR, and transparency is left out.
    """

    def __init__(self, path: str):
        self.path, self.size = path, (0, 0)

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(H,W,3) uint8, as it is to be seen."""
        if self.size == (0, 0):
            factor = downscale_factor(self.path, frame.width, frame.height)
            self.size = (max(1, frame.width // factor), max(1, frame.height // factor))
        width, height = self.size
        way = Interpolation.AREA if frame.width > width else Interpolation.BILINEAR
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=way, threads=1)
        a, b, c, d = display_transform(frame)
        return pixels.transpose(1, 0, 2)[::b, ::c] if b else pixels[::d, ::a]  # with b, rows become columns


def _read_by_header(track: VideoTrack, ask: Ask, picture: FrameConverter) -> Generator[np.ndarray, None, bool]:
    """Takes header and rate at their word, seeks, and checks every frame's time; False when they are wrong."""
    with track.opened() as (container, stream):
        rate, start, base = stream.average_rate, stream.start_time, stream.time_base
        if not rate or rate != stream.base_rate or start is None:
            return False
        total = round(track.seconds * rate)
        if stream.frames and abs(stream.frames - total) > 1:  # part of them is hidden
            return False
        total = stream.frames or total
        if total > os.fstat(track.file.fileno()).st_size:  # less than a byte each
            return False
        for index in ask(np.arange(total) / float(rate), float(rate)):
            target = start * base + int(index) / rate
            # a little early: times are rounded to the time base
            container.seek(int((target - 1 / (4 * rate)) / base), stream=stream)
            early, late = ((target + sign / (2 * rate)) / base for sign in (-1, 1))
            frame = _first_from(_frames(container, stream), early)
            if frame is None or frame.pts > late:
                return False
            yield picture(frame)
    return True


def _read_by_seeking(
    track: VideoTrack, index: Index, wanted: Sequence[int], picture: FrameConverter
) -> Iterator[np.ndarray]:
    """The frames numbered `wanted`; without seeks from where one lands behind its target, as in some containers."""
    left = list(wanted)
    with track.opened() as (container, stream):
        frames, position = _frames(container, stream), index.stamps[0] - 1
        while left:
            target = index.stamps[left[0]]
            before = bisect_right(index.keys, target)
            if before and index.keys[before - 1] > position:
                try:
                    container.seek(index.keys[before - 1], stream=stream)
                except av.error.FFmpegError:  # as in RealMedia without an index
                    break
                frames = _frames(container, stream)
            frame = _first_from(frames, target)
            if frame is None or frame.pts > target:
                break
            position = target
            left.pop(0)
            yield picture(frame)
    if left:
        yield from _read_in_order(track, index, left, picture)


def _read_in_order(
    track: VideoTrack, index: Index, wanted: Sequence[int], picture: FrameConverter
) -> Iterator[np.ndarray]:
    """The frames numbered `wanted`, decoding from the start; by their stamps where they have any, else counted."""
    with track.opened() as (container, stream):
        frames, passed = _frames(container, stream), 0
        for number in wanted:
            if index.stamps is None:
                frame = next(islice(frames, number - passed, None), None)
                passed = number + 1
            else:
                frame = _first_from(frames, index.stamps[number])
            if frame is None or (index.stamps and frame.pts > index.stamps[number]):
                raise MissingFrame(
                    f"Only {number} of {len(index.times)} frames of {track.path} can be read (up to "
                    f"{index.times[number]:.1f} s): the file is damaged or cut short; copy or download it again."
                )
            yield picture(frame)


def _first_from(frames: Iterator[av.VideoFrame], stamp: float) -> av.VideoFrame | None:
    """The first of the next frames that is not before the stamp."""
    return next((frame for frame in frames if frame.pts is not None and frame.pts >= stamp), None)
