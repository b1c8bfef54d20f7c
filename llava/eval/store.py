"""What has been answered, kept so that a kill at any moment loses at most the question under way.

A store is a folder. Every process appends its records to a file of its own, `answers-TOKEN.jsonl`, so processes on
several machines that see the same folder write without waiting for one another. A line is
{"key", "number", "record"}; of several lines with one key the highest number counts, and an empty record says that the
question counts as never asked. A line that cannot be read is left out with a warning that names it; its question is
asked again. The last line of a process that was killed may be torn; without its end it does not count.
"""

import fcntl
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from llava.eval.jsonl import LineError, parse_line, to_line, write_whole
from llava.eval.records import Record, record_from

logger = logging.getLogger(__name__)


class InUseError(ValueError):
    """Another process works in a folder; one sentence."""


def question_key(**parts: object) -> str:
    """One key for one question: equal parts give equal keys, in whatever order they are named.

    The parts are whatever makes a reply another one: model, settings, task, task hash, document.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class ResponseStore:
    """Records by key, as all processes have written them so far. Without a folder they are kept in memory alone.

    Reading leaves no trace in the folder; the first `put` makes this process's file.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else Path(folder)
        self._records: dict[str, Record] = {}
        self._numbers: dict[str, int] = {}  # key -> number of its latest line
        self._read: dict[Path, tuple[int, int]] = {}  # bytes and lines of each file that are taken in
        self._file: int | None = None

    def get(self, key: str) -> Record | None:
        """The latest record under a key, a failed one too, or None. Looks at what others wrote if it must."""
        if key not in self._records:
            self.refresh()
        return self._records.get(key)

    def records(self) -> dict[str, Record]:
        """All records of all processes, by key."""
        self.refresh()
        return dict(self._records)

    def answered(self, keys: Iterable[str] | None = None) -> int:
        """How many questions (of `keys`) have a record, failed ones included."""
        self.refresh()
        return len(self._records) if keys is None else sum(key in self._records for key in keys)

    def put(self, key: str, record: Record) -> None:
        """Writes one record, whole or not at all. A later one under the same key takes its place."""
        self._append(key, asdict(record))

    def forget_failures(self) -> None:
        """Every question without a reply may be asked again."""
        for key, record in self.records().items():
            if record.failure is not None:
                self._append(key, {})

    def expect(self, total: int) -> None:
        """Says how many questions there are in all, for whoever shows how far the work has come."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "expected", str(total).encode())

    def expected(self) -> int | None:
        """How many questions there are in all, when a process has said so."""
        try:
            return int((self.folder / "expected").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def refresh(self) -> None:
        """Takes in what all processes have written since the last look; a line without its end waits for the next."""
        for path in sorted(self.folder.glob("answers-*.jsonl")) if self.folder else ():
            position, seen = self._read.get(path, (0, 0))
            with path.open("rb") as file:
                file.seek(position)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            lines = whole.split(b"\n")[:-1]
            for number, line in enumerate(lines, seen + 1):
                try:
                    self._take(parse_line(line, f"{path}:{number}"))
                except LineError as error:
                    logger.warning("%s It is left out; its question is asked again.", error)
                except (KeyError, TypeError, AttributeError):
                    logger.warning("%s:%s is no record; its question is asked again.", path, number)
            self._read[path] = position + len(whole), seen + len(lines)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> "ResponseStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, key: str, record: dict) -> None:
        self.refresh()
        line = {"key": key, "number": self._numbers.get(key, 0) + 1, "record": record}
        if self.folder is not None:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.folder / f"answers-{uuid.uuid4().hex[:16]}.jsonl"
                self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
            data, size = to_line(line), os.fstat(self._file).st_size
            if os.write(self._file, data) != len(data):
                os.ftruncate(self._file, size)
                raise OSError("the disk is full: a line was written in part only; free some space and start again.")
        self._take(line)

    def _take(self, line: dict) -> None:
        """Raises KeyError, TypeError or AttributeError for what is no line of a store."""
        key, number = line["key"], line["number"]
        if number < self._numbers.get(key, 0):
            return
        record = record_from(line["record"]) if line["record"] else None
        self._numbers[key] = number
        if record is None:
            self._records.pop(key, None)
        else:
            self._records[key] = record


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder for this process, until it ends in whatever way. Raises InUseError when another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"Another process works on {folder}; wait for it, or use another --output.") from None
        yield
