"""Long videos: compressed while they are read, so that memory does not grow with the number of frames."""

from collections.abc import Iterable

import torch

from aot import CompressedVideo, join


@torch.no_grad()
def compress_stream(model, chunks: Iterable[torch.Tensor]) -> CompressedVideo:
    """Tokens of a video whose pixels come in chunks (F, 3, S, S), in order; only kept tokens pile up.

    model: a LLaVA model, whose ``config.aot`` says how (see `aot.VideoStream` for what a stream cannot do). The
    result goes into ``images=[...]`` as a `VideoFeatures` does. Raises AOTError for no frames.
    """
    stream = model.video_stream()
    parts = []
    for pixels in chunks:
        video = model.encode_video(pixels.to(model.device))
        parts += stream.push(video.features, video.shallow, video.deep, extras=video.extras)
    return join(parts + stream.finish())
