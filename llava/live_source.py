"""A source of frames that goes on, read in the decoder's process: what comes is held for a moment, or dropped."""

import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from llava.decoders.base import MOST_PIXELS, DecoderFailed, VideoError, is_camera
from llava.decoders.worker_process import WorkerProcess

QUEUE = 8  # frames that wait, at most
PATIENCE = 15.0  # seconds without a frame, after which somebody is told
LONGEST_WAIT = 30.0  # seconds between two tries to reach a camera


class LiveSource:
    """Frames and times of a source, taken as they come: a context manager with a thread that reads.

    source: a film, played at its own pace; a folder to which pictures are added, in the order of their names; "-",
    standard input, of MJPEG, or of raw RGB pictures with size (width, height); a camera, rtsp://… or /dev/videoN, which
    is opened because it is named so and tried again when it is lost. fps: frames a second at most, but of a folder.
    QUEUE frames wait at most; of more the oldest are dropped, but a folder waits. patience: seconds without a frame
    after which a camera counts as lost. What goes wrong is a sentence in `notes`.
    """

    def __init__(
        self, source: str, *, fps: float = 1.0, size: tuple[int, int] | None = None, patience: float = PATIENCE
    ):
        if not 0 < fps < math.inf:
            raise VideoError(f"fps must be above 0, but is {fps}; 1 is usual.")
        self.source, self.name = source, re.sub(r"//[^/@]*@", "//", source) if source != "-" else "Standard input"
        self.dropped = 0
        self._settings = {"fps": fps, "size": size, "input": os.dup(0) if source == "-" else None}
        self._camera = is_camera(source)
        self._patience, self._waits = max(patience, 3 / fps), os.path.isdir(source)
        self._coming: deque[tuple[float, np.ndarray]] = deque()
        self._sentences: list[str] = []
        self._changed, self._stopped = threading.Condition(), threading.Event()

    def __enter__(self) -> "LiveSource":
        self._begun, self._pool = time.monotonic(), ThreadPoolExecutor(max_workers=1)
        self._reading = self._pool.submit(self._read)
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._pool.shutdown()
        if self._settings["input"] is not None:
            os.close(self._settings["input"])

    @property
    def over(self) -> bool:
        """Nothing more comes."""
        return self._reading.done() and not self._coming

    def take(self, seconds: float) -> list[tuple[float, np.ndarray]]:
        """(seconds since the start, frame (H,W,3) uint8) of all that wait; the first is waited for so long at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._coming or self._reading.done(), seconds)
            taken = list(self._coming)
            self._coming.clear()
            self._changed.notify_all()
        if not taken and self._reading.done():
            self._reading.result()  # a mistake of the program comes out
        return taken

    def notes(self) -> list[str]:
        """What was to be said since the last call, a sentence each."""
        with self._changed:
            said, self._sentences = self._sentences, []
        return said

    def _say(self, sentence: str) -> None:
        with self._changed:
            self._sentences.append(sentence)

    def _read(self) -> None:
        """Until the source is over or stopped; a camera is tried again after 1, 2, 4, … seconds."""
        wait = 1.0
        while not self._stopped.is_set():
            try:
                descriptor = self._settings["input"]
                inherited = () if descriptor is None else (descriptor,)
                how = {"deadline": math.inf, "stopped": self._stopped, "pass_fds": inherited}
                with WorkerProcess("watch", self.source, **how) as worker:
                    worker.silence = self._patience
                    worker.send(self._settings)
                    for frame in self._frames(worker):
                        wait = 1.0
                        self._put(frame)
                return
            except VideoError as error:
                self._say(str(error))
                return
            except DecoderFailed as error:
                if self._stopped.is_set():
                    return
                if not self._camera:
                    self._say(f"{self.name} was lost ({error}); what was seen stays.")
                    return
                self._say(f"{self.name} was lost ({error}); it is tried again in {wait:g} s.")
            self._stopped.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _frames(self, worker: WorkerProcess) -> Iterator[tuple[float, np.ndarray]]:
        """What the decoder's process sends; its notes, a long silence and another size are told."""
        shape = None
        while True:
            if not worker.wait(self._patience):
                if self._camera:
                    raise DecoderFailed(f"no frame for {self._patience:g} s")
                self._say(f"{self.name} has sent nothing for {self._patience:g} s; it is waited for.")
                worker.wait(math.inf)
            message = worker.line()
            if "over" in message:
                return
            if "note" in message:
                self._say(message["note"])
                continue
            height, width = message["height"], message["width"]
            if not 0 < height * width <= MOST_PIXELS:
                raise DecoderFailed(f"it sends pictures of {width}x{height}")
            frame = np.empty((height, width, 3), np.uint8)
            worker.fill(memoryview(frame).cast("B"))
            if shape not in (None, frame.shape):
                self._say(f"The pictures of {self.name} are {width}x{height} now, no longer {shape[1]}x{shape[0]}.")
            shape = frame.shape
            yield time.monotonic() - self._begun if message["time"] is None else message["time"], frame

    def _put(self, frame: tuple[float, np.ndarray]) -> None:
        with self._changed:
            if self._waits:
                self._changed.wait_for(lambda: len(self._coming) < QUEUE or self._stopped.is_set())
            elif len(self._coming) == QUEUE:
                self._coming.popleft()
                self.dropped += 1
            self._coming.append(frame)
            self._changed.notify_all()
