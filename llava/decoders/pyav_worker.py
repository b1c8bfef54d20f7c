"""Checks a video and reads it with PyAV in a process of its own; started by file name, with the path.

Out: {"container", "seconds"} when the file is a whole video. In: a line, "read", or "index" for frame times from the
packets of a long file too, not from its header, which may turn out wrong after the first frames. From there on it
speaks as `llava.decoders.child` says.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType


def light_package() -> None:
    """Lets llava.decoders be imported without llava/__init__.py, which loads transformers."""
    package = ModuleType("llava")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["llava"] = package


def main(path: str) -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with frames

    def send(data: bytes = b"", **line) -> None:
        out.write(json.dumps(line).encode() + b"\n" + data)
        out.flush()

    sys.excepthook = lambda kind, error, trace: send(defect="".join(traceback.format_exception(kind, error, trace)))
    light_package()
    import av
    import numpy as np

    from llava.decoders.base import VideoError
    from llava.decoders.container import check_container
    from llava.decoders.pyav_reader import Sink, read_pyav

    class Pipe(Sink):
        def choose(self, times: np.ndarray, rate: float) -> np.ndarray:
            send(times.astype(np.float64).tobytes(), count=len(times), rate=rate)
            return np.array(json.loads(sys.stdin.readline()), int)

        def restart(self) -> None:
            send(restart=True)

        def add(self, picture: np.ndarray) -> None:
            send(np.ascontiguousarray(picture).tobytes(), height=picture.shape[0], width=picture.shape[1])

    try:
        container, seconds = check_container(path)
        send(container=container, seconds=seconds)
        if order := sys.stdin.readline():
            trusted = seconds if json.loads(order) == "read" else 0.0
            read_pyav(path, Pipe(), container=container, seconds=trusted)
    except VideoError as error:
        send(refused=str(error))
    except (av.error.FFmpegError, MemoryError) as error:
        reason = str(error).split(":")[0] or "too little memory"
        send(refused=f"{path} cannot be decoded ({reason}); convert it to MP4 with H.264.")


if __name__ == "__main__":
    main(sys.argv[1])
