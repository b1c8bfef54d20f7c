"""Which films decord is known to read as PyAV does: a list of what is allowed."""

from llava.decoders.base import FRAME_PIXELS
from llava.decoders.container import VideoTrack
from llava.decoders.pyav_reader import Index, first_after

# what a file that its old FFmpeg may open starts with: (offset, bytes) of MP4 and Matroska
MAGIC = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"))
CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4", "mjpeg"}
KEYS = 8  # keyframes from which decoding is tried
REORDERED = {"h264", "hevc"}  # of the others it loses or doubles frames at the end where times fall


def unsupported(track: VideoTrack, index: Index) -> str | None:
    """Why decord may not read the track, as the end of "it …"; None when it may."""
    track.file.seek(0)
    head = track.file.read(12)
    with track.opened() as (container, stream):
        codec, pixels = stream.codec_context.name, stream.codec_context.width * stream.codec_context.height
        keys = index.keys[1 :: max(1, len(index.keys) // KEYS)]
        firsts = [first_after(container, stream, key) for key in keys]
    reasons = {
        "reads other containers than MP4 and Matroska wrongly": not any(
            head[offset:].startswith(magic) for offset, magic in MAGIC
        ),
        f"is not known to read {codec} rightly": codec not in CODECS,
        "may take another of the video streams": not track.alone,
        "needs a time of its own for every frame": index.stamps is None,
        "shows frames that are hidden": index.hidden > 0,
        "picks wrong frames where picture groups are open": index.leading or firsts != list(keys),
        "picks wrong frames where pictures are stored in another order": index.reordered and codec not in REORDERED,
        "does not turn or mirror pictures rightly": not index.upright,
        "does not scale large pictures down": pixels > FRAME_PIXELS,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
