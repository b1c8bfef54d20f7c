"""Reads chosen frames with PyAV: one pass over the packets for the times, then seeks to keyframes."""

from bisect import bisect_right
from collections.abc import Iterator

import av
import numpy as np

from llava.decoders.base import Choose, Progress, Reading, VideoError, reading
from llava.decoders.container import main_stream


def read_pyav(path: str, choose: Choose, progress: Progress | None = None) -> Reading:
    """Frames that `choose` names. Raises VideoError when one of them cannot be delivered."""
    stamps, keys, rate = _index(path)
    if not stamps:
        raise VideoError(f"{path} holds no frame that can be decoded; convert it to MP4 with H.264.")
    times = np.array([float(stamp) for stamp in stamps])
    times -= times[0]
    indices = choose(times, rate)
    wanted = np.unique(indices)
    frames = _collect(path, stamps, keys, wanted, progress)
    return reading(frames, indices, times, rate)


def _index(path: str) -> tuple[list, list, float]:
    """(time of every frame in seconds, time of every keyframe, mean rate).

    Decodes only where the packets carry no usable times.
    """
    with av.open(path) as container:
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
    with av.open(path) as container:
        for frame in _frames(container, main_stream(container)):
            return frame.pts * frame.time_base
    return None


def _index_by_decoding(path: str) -> list:
    """Frame numbers over the rate, for streams without usable times (raw H.264, some AVI)."""
    with av.open(path) as container:
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


def _collect(path, stamps, keys, wanted, progress) -> np.ndarray:
    """(U,H,W,3) uint8: the frames numbered `wanted`, by seeking when the file has times, else by counting."""
    if keys:
        found = _by_seeking(path, stamps, keys, wanted, progress)
        if found is not None:
            return found
    return _by_counting(path, stamps, keys, wanted, progress)


def _by_seeking(path, stamps, keys, wanted, progress) -> np.ndarray | None:
    """As _collect; None when a seek lands behind its target, which some containers do."""
    out = _Frames(len(wanted), progress)
    with av.open(path) as container:
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
                    return None
                raise _lost(path, stamps, index)
            out.add(frame)
    return out.array


def _by_counting(path, stamps, keys, wanted, progress) -> np.ndarray:
    """As _collect, decoding from the start; matches times where there are any, else frame numbers."""
    out = _Frames(len(wanted), progress)
    left = iter(wanted)
    index = next(left)
    with av.open(path) as container:
        for number, frame in enumerate(_frames(container, main_stream(container))):
            here = _stamp(frame) if keys else None
            if (keys and here < stamps[index]) or (not keys and number < index):
                continue
            if keys and here > stamps[index]:
                break
            out.add(frame)
            index = next(left, None)
            if index is None:
                return out.array
    raise _lost(path, stamps, index)


class _Frames:
    """Fills one (U,H,W,3) array, in the size of its first frame."""

    def __init__(self, count: int, progress: Progress | None):
        self.array: np.ndarray | None = None
        self.count, self.filled, self.progress = count, 0, progress

    def add(self, frame: av.VideoFrame) -> None:
        turns = frame.rotation // 90 % 4  # quarter turns, counter-clockwise
        picture = np.rot90(frame.to_ndarray(format="rgb24"), turns)
        if self.array is None:
            self.array = np.empty((self.count, *picture.shape), np.uint8)
            self.size = (frame.width, frame.height)
        elif (frame.width, frame.height) != self.size:
            width, height = self.size
            picture = np.rot90(frame.to_ndarray(format="rgb24", width=width, height=height), turns)
        self.array[self.filled] = picture
        self.filled += 1
        if self.progress:
            self.progress(self.filled, self.count)


def _stamp(frame: av.VideoFrame):
    """Time of a decoded frame as an exact fraction of a second; far in the future when it has none."""
    return frame.pts * frame.time_base if frame.pts is not None else float("inf")


def _lost(path: str, stamps: list, index: int) -> VideoError:
    seconds = float(stamps[index] - stamps[0])
    return VideoError(
        f"Only {index} of {len(stamps)} frames of {path} can be read (up to {seconds:.1f} s): "
        "the file is damaged or cut short; copy or download it again."
    )
