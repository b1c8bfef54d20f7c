"""Long videos: compressed while they are read, so that memory does not grow with the number of frames."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from aot import CompressedVideo, join
from aot.stream import gather

CHUNK = 16  # frames


@torch.no_grad()
def compress_stream(model, chunks: Iterable[torch.Tensor]) -> CompressedVideo:
    """Tokens of a video whose pixels come in chunks (F, 3, S, S), in order; only kept tokens pile up.

    model: a LLaVA model, whose ``config.aot`` says how (see `aot.VideoStream` for what a stream cannot do). chunks:
    of `pixel_chunks`, or any; beside a GPU the next one is made in a thread while the tower works on the last. The
    result goes into ``images=[...]`` as a `VideoFeatures` does. Raises AOTError for no frames.
    """
    stream = model.video_stream()
    parts: list[CompressedVideo] = []
    # a tower on the CPU uses its cores already, and buffers of two threads leave gaps that make the memory grow
    for pixels in chunks if model.device.type == "cpu" else one_ahead(chunks):
        video = model.encode_video(pixels.to(model.device))
        gather(parts, stream.push(video.features, video.shallow, video.deep, extras=video.extras))
    gather(parts, stream.finish())
    return join(parts)


def pixel_chunks(frames, image_processor, *, size: int = CHUNK) -> Iterator[torch.Tensor]:
    """uint8 pixels of (T, H, W, 3) frames, `size` frames at a time; the tower normalises them on its device."""
    for start in range(0, len(frames), size):
        yield image_processor.resize(frames[start : start + size])


def one_ahead(chunks: Iterable) -> Iterator:
    """The same items; each is made in a thread while the one before it is in use. Errors come through."""
    rest, end = iter(chunks), object()
    with ThreadPoolExecutor(max_workers=1) as worker:
        coming = worker.submit(next, rest, end)
        while (item := coming.result()) is not end:
            coming = worker.submit(next, rest, end)
            yield item
