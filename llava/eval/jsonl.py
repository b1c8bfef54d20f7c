"""JSON files, whole or not at all, and JSON Lines: an object a line in UTF-8.

Lines end at "\\n" alone, and a line without its end does not count.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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


def write_jsonl(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file whole or not at all."""
    write_whole(path, b"".join(map(to_line, values)))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is there whole or not at all; several processes may."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
