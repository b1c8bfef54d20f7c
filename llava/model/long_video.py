"""Long videos: compressed while they are read, so that memory does not grow with the number of frames."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch

from aot import AOTConfig, CompressedVideo, VideoStream, join
from aot.stream import append_parts
from llava.model.compression import TowerFlops
from llava.model.timing import Timing

CHUNK = 16  # frames
STREAM_ABOVE = 128  # frames of a video that is still held as a whole
_END = object()


@torch.no_grad()
def compress_stream(model, chunks: Iterable[torch.Tensor], *, frames: int | None = None) -> CompressedVideo:
    """Tokens of a video whose pixels come in chunks (F, 3, S, S), in order; only kept tokens pile up.

    model: a LLaVA model, whose ``config.aot`` says how (see `aot.VideoStream` for what a stream cannot do); its
    ``last_timing`` then holds the milliseconds of all chunks, "wait" those spent waiting for them. chunks: of
    `pixel_chunks`, or any; beside a GPU the next one is made in a thread while the tower works on the last. frames:
    how many they have in all, which max_tokens needs. The result goes into ``images=[...]`` as a `VideoFeatures` does.
    Raises AOTError for no frames.
    """
    stream = VideoStream(model.config.aot or AOTConfig(), **model.arrangement(), frames=frames)
    timing = Timing(wait=0.0, compress=0.0)
    flops = TowerFlops(0, 0)
    parts: list[CompressedVideo] = []
    # on a CPU the tower uses the cores already, and buffers of two threads leave gaps that make the memory grow
    alone = model.device.type == "cpu" or isinstance(chunks, Prefetcher)
    with nullcontext(iter(chunks)) if alone else Prefetcher(chunks, pinned=model.device.type == "cuda") as coming:
        while True:
            with timing.stage("wait", torch.device("cpu")):
                pixels = next(coming, _END)
            if pixels is _END:
                break
            video = model.encode_video(pixels.to(model.device, non_blocking=True))
            timing.add(model.last_timing, "tower", "projector")
            flops += model.last_tower_flops
            with timing.stage("compress", model.device):
                append_parts(parts, stream.push(video.features, video.shallow, video.deep, extras=video.extras))
    with timing.stage("compress", model.device):
        append_parts(parts, stream.finish())
    model.last_timing, model.last_tower_flops = timing, flops
    return join(parts)


def can_stream(config: AOTConfig | None) -> bool:
    """Is a video compressed clip by clip anyway, so that it need not be there as a whole?"""
    return config is not None and config.method == "aot" and config.variant == "default" and config.clips == "uniform"


def pixel_chunks(frames: Iterable[np.ndarray], image_processor, *, size: int = CHUNK) -> Iterator[torch.Tensor]:
    """uint8 pixels of (H, W, 3) frames, `size` frames at a time; the tower normalises them on its device.

    frames: an array (T, H, W, 3), a `llava.video.FrameStream`, or any; no more than one is held.
    """
    pixels = (image_processor.resize([frame]) for frame in frames)
    while chunk := list(itertools.islice(pixels, size)):
        yield torch.cat(chunk)


class Prefetcher:
    """The same items, each made in a thread while the one before it is in use; errors come through.

    pinned: the items are tensors, and the thread lays those of the host in page-locked memory, from where a GPU fetches
    them without a wait. A context manager: at its end `stop` is called, which must free the thread from whatever it
    waits for, and the thread is waited for.
    """

    def __init__(self, items: Iterable, stop: Callable[[], object] = lambda: None, *, pinned: bool = False):
        if pinned:
            items = (pixels.pin_memory() if pixels.device.type == "cpu" else pixels for pixels in items)
        self._items, self._stop = iter(items), stop
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._coming = self._thread.submit(next, self._items, _END)

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self):
        if (item := self._coming.result()) is _END:
            raise StopIteration
        self._coming = self._thread.submit(next, self._items, _END)
        return item

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        self._thread.shutdown(cancel_futures=True)
