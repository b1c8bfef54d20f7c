"""The process that decodes one video; started by file name with: task, path, process id of the parent.

Tasks: "read"; "index", which does not trust the header of a long file; "judge", the index of a video that decord may
read; "decord", given a line of [frame numbers, frames of the video]; "watch", a source that goes on, given a line of
settings. It speaks as `llava.decoders.worker_process` says.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads would take memory for nothing


def light_package() -> None:
    """Lets llava.decoders be imported without llava/__init__.py, which loads transformers."""
    package = ModuleType("llava")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["llava"] = package


def main(task: str, path: str, parent: str) -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with frames

    def send(data: bytes = b"", **line) -> None:
        out.write(json.dumps(line).encode() + b"\n" + data)
        out.flush()

    sys.excepthook = lambda kind, error, trace: send(defect="".join(traceback.format_exception(kind, error, trace)))
    light_package()
    from llava.decoders.base import DecoderFailed, VideoError
    from llava.decoders.sandbox import MEMORY, exit_with_parent, limit_memory

    exit_with_parent(int(parent))
    limit_memory(MEMORY)
    try:
        if task == "watch":
            for picture, seconds in watched(path, send):
                send(picture.tobytes(), height=picture.shape[0], width=picture.shape[1], time=seconds)
            send(over=True)
        else:
            for picture in read_decord(path) if task == "decord" else pictures(task, path, send):
                send(picture.tobytes(), height=picture.shape[0], width=picture.shape[1])
    except VideoError as error:
        send(refused=str(error))
    except DecoderFailed as error:
        send(error=str(error))
    except MemoryError:
        send(refused=f"{path} takes more than {MEMORY / 2**30:g} GiB of memory to decode; scale it down first.")
    if task == "decord":
        os._exit(0)  # its own tear-down can crash


def read_decord(path: str) -> Iterator:
    """Pictures (H,W,3) with the numbers that the parent has chosen among PyAV's frames."""
    import decord

    from llava.decoders.base import DecoderFailed
    from llava.decoders.sandbox import limit_open_files, open_regular

    wanted, total = json.loads(sys.stdin.readline())
    descriptor = open_regular(path)
    limit_open_files(1)  # decord opens the descriptor's file once more
    try:
        # by number, since its FFmpeg takes hints from a name, such as %d for a series of files
        reader = decord.VideoReader(f"/proc/self/fd/{descriptor}", ctx=decord.cpu(0))
        if len(reader) != total:
            raise DecoderFailed(f"it counts {len(reader)} frames of {total}")
        for number in wanted:
            yield reader[number].asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecoderFailed(str(error).splitlines()[0]) from error


def watched(source: str, send: Callable) -> Iterator:
    """(picture (H,W,3), seconds) of a source that goes on; a film at its own pace, others without a time."""
    from PIL import Image

    from llava.decoders.base import is_camera
    from llava.decoders.live_reader import live_pictures
    from llava.decoders.sampling import choose_frames

    Image.MAX_IMAGE_PIXELS = None  # as below
    settings = json.loads(sys.stdin.readline())
    if source == "-" or is_camera(source) or os.path.isdir(source):
        for picture in live_pictures(source, settings, lambda sentence: send(note=sentence)):
            yield picture, None
        return
    coming: list[float] = []

    def choose(times, rate: float) -> list[int]:
        chosen = choose_frames(times - times[0], rate, num_frames=len(times), fps=settings["fps"])
        coming[:] = (times[chosen] - times[0])[::-1]
        return chosen.tolist()

    begun, last = None, -1.0
    for picture in pictures("read", source, send, choose):
        if (seconds := float(coming.pop())) <= last:
            continue  # a video whose header was wrong is read from its start again
        begun, last = time.monotonic() if begun is None else begun, seconds
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        yield picture, seconds


def pictures(task: str, path: str, send: Callable, choose: Callable | None = None) -> Iterator:
    """Pictures (H,W,3) of a video, an animation or a folder, once the parent, or `choose`, chose among the times."""
    from PIL import Image

    from llava.decoders.base import DecoderFailed, VideoError
    from llava.decoders.pillow_reader import is_animation, is_photo, read_animation, read_folder
    from llava.decoders.sandbox import limit_open_files, open_regular

    Image.MAX_IMAGE_PIXELS = None  # in this process `downscale_factor` bounds them, before anything is decoded
    seconds, decoder = 0.0, "folder"

    def ask(times, rate: float) -> list[int]:
        if choose is not None:
            return choose(times, rate)
        data = times.astype("float64").tobytes()
        send(data, count=len(times), rate=float(rate), seconds=seconds, decoder=decoder)
        return json.loads(sys.stdin.readline())

    # what Pillow reads, before PyAV is loaded, a quarter of the start
    if os.path.isdir(path):
        yield from read_folder(path, ask)
        return
    file = os.fdopen(open_regular(path), "rb", buffering=0)
    what = "animations" if is_animation(file) else "photos of several pictures" if is_photo(file) else None
    if what is not None:
        limit_open_files(1)  # Pillow loads modules late
        if task == "judge":
            raise DecoderFailed(f"it does not read {what}")
        decoder = "pillow"
        yield from read_animation(path, file, ask)
        return
    # a video
    import av
    import av.subtitles.codeccontext
    import av.subtitles.stream  # PyAV would load these two late, when nothing can be opened any more

    from llava.decoders.container import find_video_track
    from llava.decoders.decord_check import unsupported
    from llava.decoders.pyav_reader import index_packets, read_pyav

    limit_open_files()
    try:
        track = find_video_track(path, file)
        seconds, decoder = track.seconds, "pyav"
        if task != "judge":
            yield from read_pyav(track, ask, trust_header=task == "read")
            return
        index = index_packets(track)
        if reason := unsupported(track, index):
            raise DecoderFailed(f"it {reason}")
        ask(index.times, index.rate)
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        reason = str(error).split(":")[0]
        raise VideoError(f"{path} cannot be decoded ({reason}); convert it to MP4 with H.264.") from error


if __name__ == "__main__":
    main(*sys.argv[1:])
