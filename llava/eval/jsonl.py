"""JSON files, whole or not at all, and JSON Lines: an object a line in UTF-8.

Lines end at "\\n" alone, and a line without its end does not count.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_BOM = b"\xef\xbb\xbf"


class LineError(ValueError):
    """A line that is no JSON object; the text names file and line."""


def to_line(value: Mapping[str, Any]) -> bytes:
    """The line of an object. A lone surrogate, which UTF-8 cannot hold, is written as its JSON escape."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """The object of a line, a byte order mark before it left out. where: FILE:NUMBER. Raises LineError."""
    try:
        value = json.loads(line.removeprefix(_BOM).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise LineError(f"{where} is no UTF-8 text; save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise LineError(f"{where} is no JSON; write one JSON object a line.") from error
    if not isinstance(value, dict):
        raise LineError(f"{where} is no JSON object; write one a line.")
    return value


def numbered_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(FILE:NUMBER, line) of every line of a file that is not blank."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.removeprefix(_BOM).strip():
            yield f"{path}:{number}", line


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a whole file. Raises LineError."""
    return [parse_line(line, where) for where, line in numbered_lines(path)]


def write_jsonl(path: Path, values: Iterable[Mapping[str, Any]], *, part: str = ".part") -> None:
    """Writes a file whole or not at all. part: the end of its name until it is whole, for several that may write it."""
    write_whole(path, b"".join(map(to_line, values)), part=part)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def write_whole(path: Path, data: bytes, *, part: str = ".part") -> None:
    """Writes a file that is there whole or not at all. part: the end of its name meanwhile."""
    whole = path.with_name(path.name + part)
    whole.write_bytes(data)
    whole.replace(path)


def append_line(file: int, value: Mapping[str, Any]) -> None:
    """Appends one line in a single write, whole or not at all. Raises OSError when the disk takes only a part of it.

    file: a descriptor opened with O_RDWR and O_APPEND, of which this process is the only writer.
    """
    data, size = to_line(value), os.fstat(file).st_size
    if os.write(file, data) != len(data):
        os.ftruncate(file, size)
        raise OSError("the disk is full: a line was written in part only; free some space and start again.")


class LineReader:
    """Reads a growing file piece by piece; a last line without its newline waits for the next look.

    fields: names and types that every object must have. A line that is no such object is left out, with a warning
    that names file and line.
    """

    def __init__(self, path: Path, fields: Mapping[str, type]):
        self.path, self.fields = path, fields
        self.position = self.lines = 0

    def new_lines(self) -> list[dict]:
        """The whole lines added since the last call; none when there is no such file yet."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return []
        whole, found = data[: data.rfind(b"\n") + 1], []
        for line in whole.split(b"\n")[:-1]:
            self.lines += 1
            try:
                found.append(self._object(line))
            except LineError as error:
                logger.warning("%s It is left out; what it said is asked again.", error)
        self.position += len(whole)
        return found

    def _object(self, line: bytes) -> dict:
        where = f"{self.path}:{self.lines}"
        value = parse_line(line, where)
        wrong = [name for name, kind in self.fields.items() if not isinstance(value.get(name), kind)]
        if wrong:
            raise LineError(f"{where} has no good {wrong[0]!r}.")
        return value
