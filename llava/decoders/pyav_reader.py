"""Reads chosen frames with PyAV: one pass over the packets for the times, then seeks to keyframes.

Runs in the process of pyav_worker.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator

import av
import numpy as np

from llava.decoders.base import VideoError
from llava.decoders.container import main_stream, open_file

# beyond this, a video of constant rate is not gone through packet by packet
LONG = 1800.0  # seconds
# containers whose headers state length and rate reliably enough to be tried without a pass over all packets
INDEXED = ("mov,mp4", "matroska")


class Sink(ABC):
    """Where frames go: chooses them, and takes each (H,W,3) uint8 picture once, in order."""

    @abstractmethod
    def choose(self, times: np.ndarray, rate: float) -> np.ndarray:
        """Frame numbers, ascending and distinct, for times (N,) in seconds and frames a second."""

    @abstractmethod
    def restart(self) -> None:
        """The chosen frames will come again, from the first."""

    @abstractmethod
    def add(self, picture: np.ndarray) -> None:
        """The next frame, in the size of the first."""


def read_pyav(path: str, sink: Sink, *, container: str = "", seconds: float = 0.0) -> None:
    """Frames that the sink chooses. Raises VideoError when one of them cannot be delivered.

    container: the file's format in FFmpeg's words. seconds: its length, as far as known.
    """
    if seconds > LONG and container.startswith(INDEXED) and _read_long(path, sink, seconds):
        return
    stamps, keys, rate = _index(path)
    if not stamps:
        raise VideoError(f"{path} holds no frame that can be decoded; convert it to MP4 with H.264.")
    times = np.array([float(stamp) for stamp in stamps])
    wanted = sink.choose(times - times[0], rate)
    if keys and _by_seeking(path, stamps, keys, wanted, sink):
        return
    _by_counting(path, stamps, keys, wanted, sink)


def _read_long(path: str, sink: Sink, seconds: float) -> bool:
    """Takes header and rate at their word, seeks, and checks every frame's time; False when they are wrong."""
    with open_file(path) as container:
        stream = main_stream(container)
        rate, start, base = stream.average_rate, stream.start_time, stream.time_base
        if not rate or rate != stream.base_rate or start is None:
            return False
        total = stream.frames or round(seconds * rate)
        wanted = sink.choose(np.arange(total) / float(rate), float(rate))
        picture = Picture()
        for index in wanted:
            target = start * base + index / rate
            # a little early: times are rounded to the time base
            container.seek(int((target - 1 / (4 * rate)) / base), stream=stream)
            frame = next((f for f in _frames(container, stream) if _stamp(f) >= target - 1 / (2 * rate)), None)
            if frame is None or _stamp(frame) > target + 1 / (2 * rate):
                return False
            sink.add(picture.of(frame))
    return True


def _index(path: str) -> tuple[list, list, float]:
    """(time of every frame in seconds, time of every keyframe, mean rate).

    Decodes only where the packets carry no usable times.
    """
    with open_file(path) as container:
        stream = main_stream(container)
        base = stream.time_base
        packets = [
            (packet.pts, packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        rate = float(stream.average_rate or 0)
    stamps = sorted(pts for pts, _ in packets if pts is not None)
    if len(stamps) < len(packets) or len(set(stamps)) < len(stamps):
        stamps, keys = _index_by_decoding(path), []
    else:
        first = _first_stamp(path)
        stamps = [pts * base for pts in stamps if first is not None and pts * base >= first]
        keys = sorted(pts * base for pts, key in packets if key)
    if rate <= 0:
        span = float(stamps[-1] - stamps[0]) if stamps else 0.0
        rate = (len(stamps) - 1) / span if span > 0 else 25.0
    return stamps, keys, rate


def _first_stamp(path: str):
    """Time of the first frame that decodes: a recording cut inside a picture group starts with orphans."""
    with open_file(path) as container:
        for frame in _frames(container, main_stream(container)):
            return frame.pts * frame.time_base
    return None


def _index_by_decoding(path: str) -> list:
    """Frame numbers over the rate, for streams without usable times (raw H.264, some AVI)."""
    with open_file(path) as container:
        stream = main_stream(container)
        rate = stream.average_rate or 25
        return [number / rate for number, _ in enumerate(_frames(container, stream))]


def _frames(container, stream) -> Iterator[av.VideoFrame]:
    """Decoded frames in display order; a damaged packet yields nothing and the rest goes on."""
    if not stream.codec_context.is_open:
        stream.thread_type = "AUTO"
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def _by_seeking(path, stamps, keys, wanted, sink) -> bool:
    """Sends the frames numbered `wanted`; False when a seek lands behind its target, as some containers do."""
    picture = Picture()
    with open_file(path) as container:
        stream = main_stream(container)
        decoded, position = _frames(container, stream), stamps[0] - 1
        for index in wanted:
            target = stamps[index]
            key = keys[max(0, bisect_right(keys, target) - 1)]
            sought = key > position
            if sought:
                container.seek(int(key / stream.time_base), stream=stream)
                decoded = _frames(container, stream)
            for frame in decoded:
                position = _stamp(frame)
                if position >= target:
                    break
            else:
                raise _lost(path, stamps, index)
            if position > target:
                if sought:
                    return False
                raise _lost(path, stamps, index)
            sink.add(picture.of(frame))
    return True


def _by_counting(path, stamps, keys, wanted, sink) -> None:
    """As _by_seeking, decoding from the start; matches times where there are any, else frame numbers."""
    sink.restart()
    picture, left = Picture(), iter(wanted)
    index = next(left)
    with open_file(path) as container:
        for number, frame in enumerate(_frames(container, main_stream(container))):
            here = _stamp(frame) if keys else None
            if (keys and here < stamps[index]) or (not keys and number < index):
                continue
            if keys and here > stamps[index]:
                break
            sink.add(picture.of(frame))
            index = next(left, None)
            if index is None:
                return
    raise _lost(path, stamps, index)


class Picture:
    """Frames as upright (H,W,3) uint8, all in the size of the first."""

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = None

    def of(self, frame: av.VideoFrame) -> np.ndarray:
        turns = frame.rotation // 90 % 4  # quarter turns, counter-clockwise
        if self.size is None:
            self.size = (frame.width, frame.height)
        if (frame.width, frame.height) == self.size:
            return np.rot90(frame.to_ndarray(format="rgb24"), turns)
        width, height = self.size
        return np.rot90(frame.to_ndarray(format="rgb24", width=width, height=height), turns)


def _stamp(frame: av.VideoFrame):
    """Time of a decoded frame as an exact fraction of a second; far in the future when it has none."""
    return frame.pts * frame.time_base if frame.pts is not None else float("inf")


def _lost(path: str, stamps: list, index: int) -> VideoError:
    seconds = float(stamps[index] - stamps[0])
    return VideoError(
        f"Only {index} of {len(stamps)} frames of {path} can be read (up to {seconds:.1f} s): "
        "the file is damaged or cut short; copy or download it again."
    )
