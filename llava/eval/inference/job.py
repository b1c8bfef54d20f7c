"""A file of questions about videos, and what its answers are kept under."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aot_cli.parser import meant
from llava.chat.options import compression, model_path
from llava.chat.session import ChatError
from llava.eval.jsonl import LineError, numbered_lines, parse_line
from llava.eval.provenance import checkpoint_fingerprint
from llava.eval.sweep.store import StoreReader, question_key

_KEYS = ("id", "video", "question")  # of a line
# options of the chat that change an answer
_ASKED_WITH = (
    "num_frames", "fps", "force_sample", "decoder", "dtype", "tower_dtype", "conv_template", "max_new_tokens",
    "temperature",
)  # fmt: skip
_ASKED_WITH_IF_GIVEN = ("max_pixels", "total_tokens")


@dataclass(frozen=True)
class Asked:
    """One line of the input.

    video: an absolute path. key: of its answer in the store. failure: why the line is no question, with file and
    line; such a line is answered with it, and has None for what it does not say.
    """

    id: str | int | None
    video: str | None
    question: str | None
    key: str
    failure: str | None = None
    further: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """All lines in the order of the input. identity: what else the answers depend on."""

    lines: tuple[Asked, ...]
    identity: Mapping[str, Any]

    @property
    def questions(self) -> list[Asked]:
        """The lines that can be asked."""
        return [asked for asked in self.lines if asked.failure is None]

    def videos(self) -> dict[str, list[Asked]]:
        """The questions by the key of their video, the most work first: bytes of the file times questions."""
        found: dict[str, list[Asked]] = {}
        for asked in self.questions:
            found.setdefault(question_key(video=asked.video, **self.identity), []).append(asked)
        return dict(sorted(found.items(), key=lambda item: -_size(item[1][0].video) * len(item[1])))


def read_job(options: Namespace) -> Job:
    """The job of the command line. Raises ChatError for a file without a question, AOTError for bad settings."""
    aot = compression(options)
    checkpoint = model_path(options)
    identity = {
        "checkpoint": checkpoint_fingerprint(checkpoint),
        "aot": None if aot is None else aot.to_dict(),
        **{name: getattr(options, name) for name in _ASKED_WITH},
        **{name: value for name in _ASKED_WITH_IF_GIVEN if (value := getattr(options, name)) is not None},
    }
    lines: list[Asked] = []
    seen: set = set()
    try:
        for where, line in numbered_lines(options.input):
            lines.append(_asked(line, where, options.input.parent, identity, seen))
    except FileNotFoundError as error:
        raise ChatError(f"There is no file of questions at {options.input}; check --input.") from error
    job = Job(tuple(lines), identity)
    if not job.questions:
        reason = f"There is no question in {options.input}"
        raise ChatError(f"{reason}: {lines[0].failure}" if lines else f"{reason}.")
    return job


def _asked(line: bytes, where: str, folder: Path, identity: Mapping[str, Any], seen: set) -> Asked:
    """One line. seen: the ids of the lines before, to which this one's is added."""
    row: dict[str, Any] = {}
    try:
        row = parse_line(line, where)
        further = {name: value for name, value in row.items() if name not in _KEYS}
        _check(row, where, further)
        if row["id"] in seen:
            raise LineError(f"{where} has the id {row['id']!r} of a line before it; give it one of its own.")
        video = _absolute(folder / row["video"], where)
    except LineError as error:
        said = {name: row[name] for name in row if isinstance(row[name], (str, int))}
        return Asked(said.get("id"), said.get("video"), said.get("question"), key="", failure=str(error))
    seen.add(row["id"])
    asked = {"id": row["id"], "video": video, "question": row["question"]}
    return Asked(**asked, key=question_key(**asked, **identity), further=further)


def _check(row: Mapping[str, Any], where: str, further: Mapping[str, Any]) -> None:
    """LineError for an object that is no question. further: what it holds besides."""
    for name in _KEYS:
        if name not in row:
            raise LineError(
                f"{where} has no {name}{meant(name, further)}; write an object with id, video and question."
            )
    if isinstance(row["id"], bool) or not isinstance(row["id"], (str, int)):
        raise LineError(f"{where}: id must be a text or a whole number.")
    if not all(isinstance(row[name], str) and row[name].strip() for name in ("video", "question")):
        raise LineError(f"{where}: video and question must be texts that are not empty.")
    for name in ("id", "question"):
        try:
            str(row[name]).encode()
        except UnicodeEncodeError as error:
            raise LineError(f"{where}: {name} holds half a character (a lone surrogate); write it whole.") from error


def _absolute(path: Path, where: str) -> str:
    """The path from the root of the file system. LineError for what no file can be called."""
    try:
        found = path.resolve()
        found.is_file()
        return str(found)
    except ValueError as error:  # a NUL character, a lone surrogate
        raise LineError(f"{where}: video is no path, it holds a character that no path can; correct it.") from error
    except OSError as error:
        raise LineError(f"{where}: video is no path that can be looked at ({error.strerror}); correct it.") from error


def answer_lines(job: Job, store: StoreReader) -> list[dict[str, Any]]:
    """What goes out, in the order of the input; only for a job that is done.

    What else stood in a line goes along; a name that the output has itself, such as answer, becomes input_answer.
    """
    lines = []
    for asked in job.lines:
        failed = {"answer": None, "failure": asked.failure}
        answer = store.get(asked.key) if asked.failure is None else failed
        line = {"id": asked.id, "video": asked.video, "question": asked.question, **answer}
        further = {f"input_{name}" if name in line else name: value for name, value in asked.further.items()}
        lines.append({**line, **further})
    return lines


def _size(path: str) -> int:
    file = Path(path)
    return file.stat().st_size if file.is_file() else 0
