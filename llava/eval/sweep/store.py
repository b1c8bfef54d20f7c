"""What has been answered, kept so that a kill at any moment loses at most the question under way.

A store is a folder. Every process appends to a file of its own, `answers-TOKEN.jsonl`, and holds a lock on it
for as long as it lives; the kernel lets go of the lock when the process ends in whatever way. So several
processes, on several machines that see the same folder, write without waiting for one another, and a claim of a
process that is gone is known to be void. The claims, `claims.jsonl`, are the shared queue of work.

A record is a JSON object. Its fields that other parts read:

    model, settings, task, doc_id    what was asked, and under which effective settings
    reply                            the text, or null
    failure                          null, or why there is no reply
    tokens, seconds                  counts and times of the question

A line that cannot be read is left out with a warning that names it; its question counts as never asked.

`StoreReader` only looks; `ResponseStore` also writes and claims.
"""

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llava.eval.jsonl import LineReader, append_line, drop_torn_line


def question_key(**parts: object) -> str:
    """One key for one question: equal parts give equal keys, in whatever order they are named.

    The parts are whatever makes a reply another one: model, settings, task, task hash, document.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


_ANSWER = {"key": str, "number": int, "record": dict}
_CLAIM = {"key": str, "owner": str}


class StoreReader:
    """Replies by key, as all processes have written them so far; leaves no trace in the folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._records: dict[str, dict] = {}
        self._claims: dict[str, str] = {}  # key -> token of the process that works on it
        self._readers: dict[Path, LineReader] = {}
        self._order: dict[str, int] = {}  # key -> running number of its latest record

    def get(self, key: str) -> dict | None:
        """The latest record under `key`, a failed one too, or None. Looks at what others wrote if it must."""
        if key not in self._records:
            self.refresh()
        record = self._records.get(key)
        return None if record is None else dict(record)

    def records(self) -> dict[str, dict]:
        """All records of all processes, by key."""
        self.refresh()
        return {key: dict(record) for key, record in self._records.items()}

    def answered(self, keys: Iterable[str] | None = None) -> int:
        """How many questions (of `keys`) have a record, failed ones included."""
        self.refresh()
        return len(self._records) if keys is None else sum(key in self._records for key in keys)

    def expected(self) -> int | None:
        """How many questions there are in all, when a process has said so (`ResponseStore.expect`)."""
        try:
            return int((self.folder / "expected").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def refresh(self) -> None:
        """Takes in what all processes have written since the last look."""
        for path in sorted(self.folder.glob("answers-*.jsonl")):
            for line in self._reader(path, _ANSWER).new_lines():
                self._take(line)
        for line in self._reader(self.folder / "claims.jsonl", _CLAIM).new_lines():
            self._claims[line["key"]] = line["owner"]

    def _reader(self, path: Path, fields: dict[str, type]) -> LineReader:
        return self._readers.setdefault(path, LineReader(path, fields))

    def _take(self, line: dict) -> None:
        key = line["key"]
        if line["number"] < self._order.get(key, 0):
            return
        self._order[key] = line["number"]
        if line["record"]:
            self._records[key] = line["record"]
        else:
            self._records.pop(key, None)
            self._claims.pop(key, None)


class ResponseStore(StoreReader):
    """Replies by key, and a queue of the keys without one. Close it, or use it in a `with`."""

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.token = uuid.uuid4().hex[:16]
        path = self.folder / f"answers-{self.token}.jsonl"
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._repair()
        self.refresh()

    def expect(self, total: int) -> None:
        """Says how many questions there are in all, for whoever shows how far the work has come."""
        part = self.folder / f"expected-{self.token}"
        part.write_text(str(total))
        part.replace(self.folder / "expected")

    def put(self, key: str, record: dict) -> None:
        """Writes one record, whole or not at all. A later one under the same key takes its place."""
        self.refresh()
        self._append({"key": key, "number": self._order.get(key, 0) + 1, "record": record})

    def forget(self, key: str) -> None:
        """The question counts as never asked, as after `put` was never called."""
        self.put(key, {})

    def forget_failures(self) -> int:
        """Every question without a reply may be asked again; returns how many there were."""
        failed = [key for key, record in self.records().items() if record.get("failure") is not None]
        for key in failed:
            self.forget(key)
        return len(failed)

    def claim(self, key: str) -> bool:
        """True if this process is to answer `key`: it has no record and no living process is at it.

        Of several processes that ask at once, one gets True. Asking again gives the same answer.
        """
        with self._queue() as claims:
            self.refresh()
            if key in self._records:
                return False
            owner = self._claims.get(key)
            if owner is not None and self._alive(owner):
                return owner == self.token
            append_line(claims, {"key": key, "owner": self.token})
            self._claims[key] = self.token
            return True

    def work(self, keys: Iterable[str], *, wait: float = 0.5) -> Iterator[str]:
        """The keys this process is to answer, in the order given, until every key has a record.

        Each yielded key must get its `put` before the next is taken. When only others' work is left it waits
        for them, looking every `wait` seconds, and takes over what a process left that died.
        """
        left = list(dict.fromkeys(keys))
        while left:
            mine = 0
            for key in left:
                if self.claim(key):
                    mine += 1
                    yield key
            self.refresh()
            left = [key for key in left if key not in self._records]
            if left and not mine:
                time.sleep(wait)

    def close(self) -> None:
        """Lets go of the lock; claims without a record become free."""
        if self._file >= 0:
            if os.fstat(self._file).st_size == 0:
                (self.folder / f"answers-{self.token}.jsonl").unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "ResponseStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, line: dict) -> None:
        append_line(self._file, line)
        self._take(line)

    @contextmanager
    def _queue(self) -> Iterator[int]:
        """The file of claims, open and locked against the other processes."""
        file = os.open(self.folder / "claims.jsonl", os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            drop_torn_line(file)
            yield file
        finally:
            os.close(file)

    def _alive(self, token: str) -> bool:
        """Whether the process with this token still holds the lock on its file."""
        if token == self.token:
            return True
        try:
            file = os.open(self.folder / f"answers-{token}.jsonl", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(file)

    def _repair(self) -> None:
        """Cuts the torn last line off the files of processes that are gone."""
        for path in self.folder.glob("answers-*.jsonl"):
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                drop_torn_line(file)
            except BlockingIOError:
                continue  # its process lives
            finally:
                os.close(file)
