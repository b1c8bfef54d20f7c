"""Videos that strangers send: looked at before they are decoded, and left alone when nobody waits any more."""

import threading

import numpy as np

from llava.serve.session import ChatSession
from llava.video import Video, VideoError


def read_video(
    session: ChatSession,
    path: str,
    *,
    time_limit: float,
    longest: float | None = None,
    most_frames: int | None = None,
    stopped: threading.Event | None = None,
) -> Video:
    """The frames that the session's model looks at.

    longest: seconds that a video may last, and most_frames: frames that it may have; more is refused before a frame
    is sent. time_limit: seconds of decoding. stopped: once it is set, the decoder is ended. Raises VideoError.
    """
    with session.open_video(path, time_limit=time_limit, stopped=stopped) as stream:
        if longest is not None and stream.duration > longest:
            raise VideoError(
                f"The video lasts {stream.duration:.0f} s and the limit is {longest:g} s; cut out the part you want "
                "to ask about."
            )
        if most_frames is not None and stream.total_frames > most_frames:
            raise VideoError(
                f"The video has {stream.total_frames} frames and the limit is {most_frames}; cut out the part you "
                "want to ask about."
            )
        frames = np.stack(list(stream))
    return Video(frames, stream.times, stream.duration, stream.decoder, stream.total_frames, stream.rate)
