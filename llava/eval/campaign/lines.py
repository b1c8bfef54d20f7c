"""JSON Lines files that are only ever appended to: a line is there whole, or it is torn and does not count."""

import json
import os
from pathlib import Path


def append_line(file: int, value: dict) -> None:
    """Appends one line in a single write, so that lines of several processes do not mix.

    file: a descriptor opened with O_APPEND. Raises OSError when the disk takes less than the whole line.
    """
    data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    if os.write(file, data) != len(data):
        raise OSError("the disk is full: a line was written in part only; free some space and start again.")


def drop_torn_line(file: int) -> None:
    """Cuts off what stands after the last newline: the rest of a write that was interrupted."""
    size = os.fstat(file).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        block = os.pread(file, end - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)


class LineReader:
    """Reads a growing file piece by piece; a last line without its newline waits for the next look."""

    def __init__(self, path: Path):
        self.path = path
        self.position = 0

    def new_lines(self) -> list[dict]:
        """The whole lines added since the last call; none when there is no such file yet."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.position += len(whole)
        return [json.loads(line) for line in whole.splitlines() if line.strip()]
