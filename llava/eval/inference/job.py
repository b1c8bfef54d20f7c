"""A file of questions about videos, and what its answers are kept under."""

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aot_cli.parser import meant
from llava.chat.options import compression, model_path
from llava.chat.session import ChatError
from llava.eval.campaign.store import StoreReader, question_key
from llava.eval.lmms.fingerprint import checkpoint_fingerprint, checkpoint_folder

_KEYS = ("id", "video", "question")  # of a line
# options of the chat that change an answer
_ASKED_WITH = (
    "num_frames", "fps", "force_sample", "decoder", "dtype", "tower_dtype", "conv_template", "max_new_tokens",
    "temperature",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One line of the input. video: an absolute path. key: of its answer in the store.

    further: what else stands in the line, such as a reference answer; it plays no part and goes into the output.
    """

    id: str | int
    video: str
    question: str
    key: str
    further: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """All questions in the order of the input. identity: what else the answers depend on."""

    questions: tuple[Asked, ...]
    identity: Mapping[str, Any]

    def videos(self) -> dict[str, list[Asked]]:
        """The questions by the key of their video, the most work first: bytes of the file times questions."""
        found: dict[str, list[Asked]] = {}
        for asked in self.questions:
            found.setdefault(question_key(video=asked.video, **self.identity), []).append(asked)
        return dict(sorted(found.items(), key=lambda item: -_size(item[1][0].video) * len(item[1])))


def read_job(options: Namespace) -> Job:
    """The job of the command line. Raises ChatError for a line that is no question, AOTError for bad settings."""
    aot = compression(options)
    checkpoint = model_path(options)
    identity = {
        "checkpoint": checkpoint_fingerprint(checkpoint_folder(checkpoint)),
        "aot": None if aot is None else aot.to_dict(),
        **{name: getattr(options, name) for name in _ASKED_WITH},
    }
    try:
        lines = options.input.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ChatError(f"There is no file of questions at {options.input}; check --input.") from error
    except UnicodeDecodeError as error:
        raise ChatError(f"{options.input} is no UTF-8 text; save it as JSON Lines.") from error
    questions = [
        _asked(line, f"{options.input}:{number}", options.input.parent, identity)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not questions:
        raise ChatError(f"There is no question in {options.input}.")
    seen: set = set()
    for asked in questions:
        if asked.id in seen:
            raise ChatError(f"{options.input} has the id {asked.id!r} twice; every question needs one of its own.")
        seen.add(asked.id)
    return Job(tuple(questions), identity)


def _asked(line: str, where: str, folder: Path, identity: Mapping[str, Any]) -> Asked:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ChatError(f"{where} is no JSON; write one object a line with id, video and question.") from error
    if not isinstance(row, dict):
        raise ChatError(f"{where} must be an object with id, video and question.")
    further = {name: value for name, value in row.items() if name not in _KEYS}
    row = {name: row[name] for name in _KEYS if name in row}
    for name in _KEYS:
        if name not in row:
            raise ChatError(
                f"{where} has no {name}{meant(name, further)}; write an object with id, video and question."
            )
    if isinstance(row["id"], bool) or not isinstance(row["id"], (str, int)):
        raise ChatError(f"{where}: id must be a text or a whole number.")
    if not all(isinstance(row[name], str) and row[name].strip() for name in ("video", "question")):
        raise ChatError(f"{where}: video and question must be texts that are not empty.")
    row["video"] = str((folder / row["video"]).resolve())
    return Asked(**row, key=question_key(**row, **identity), further=further)


def answer_lines(job: Job, store: StoreReader) -> list[dict[str, Any]]:
    """What goes out, in the order of the input; only for a job that is done.

    What else stood in a line goes along; a name that the output has itself, such as answer, becomes input_answer.
    """
    lines = []
    for asked in job.questions:
        line = {"id": asked.id, "video": asked.video, "question": asked.question, **store.get(asked.key)}
        further = {f"input_{name}" if name in line else name: value for name, value in asked.further.items()}
        lines.append({**line, **further})
    return lines


def _size(path: str) -> int:
    file = Path(path)
    return file.stat().st_size if file.is_file() else 0
