"""Answers a file of questions about videos: `python -m llava.eval.infer --input Q.jsonl --output A.jsonl`.

Input: one JSON object a line with id, video (a path, relative to the file) and question. Output: one line each, in the
same order, with answer or failure, settings, token counts and times. Beside the output a folder OUTPUT.work keeps what
is answered, so the same command goes on after an interruption, and failed questions are asked again. A line that is
no question fails by itself, with its file and number.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aot_cli.main import entry
from aot_cli.parser import Parser, meant
from llava.chat.answer import ChatError
from llava.chat.options import add_model_options, compression, model_path
from llava.chat.prompt import default_prompt_style
from llava.eval.jsonl import LineError, numbered_lines, parse_line, to_line, write_jsonl
from llava.eval.progress import QuestionProgress
from llava.eval.provenance import checkpoint_fingerprint
from llava.eval.runner import Launch, add_launch_options, last_log_line, launch_of, run_module
from llava.eval.store import ResponseStore, locked, question_key
from llava.model.checkpoint import read_settings

_KEYS = ("id", "video", "question")  # of a line
# options of the chat that change an answer
_ASKED_WITH = (
    "num_frames", "fps", "force_sample", "decoder", "dtype", "tower_dtype", "conv_template", "max_new_tokens",
    "temperature",
)  # fmt: skip
_ASKED_WITH_IF_GIVEN = ("max_pixels", "total_tokens", "quantization")


def execute(options) -> int:
    """0 when every question has an answer, 1 when some failed or the work broke off, 2 for a wrong command."""
    try:
        settings = read_settings(model_path(options))  # whose errors say what is wrong with --model-path
        lines = read_questions(options)
        launch = launch_of(options)
        if note := default_prompt_style(SimpleNamespace(**settings)).note:
            print(f"aot infer: {note}", file=sys.stderr)
        with locked(work_folder(options)) if launch.node_rank == 0 else nullcontext():
            return _run(lines, options, launch)
    except (ValueError, OSError) as error:
        print(f"aot infer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("aot infer: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def add_options(parser: Parser) -> None:
    """Those of a file of questions, and the chat's options for the model and the video."""
    work = parser.add_argument_group("work")
    work.add_argument("--input", type=Path, required=True, metavar="JSONL", help="lines with id, video and question")
    work.add_argument("--output", type=Path, required=True, metavar="JSONL", help="where the answers go")
    add_launch_options(work)
    add_model_options(parser, cached=True)


def work_folder(options) -> Path:
    """Where answers are kept while there is work."""
    return options.output.with_name(options.output.name + ".work")


def _run(lines: list[Asked], options, launch: Launch) -> int:
    # 1. failed questions are open again
    folder, keys = work_folder(options), [asked.key for asked in lines if asked.failure is None]
    store = ResponseStore(folder)
    if launch.node_rank == 0:
        with store:
            store.forget_failures()
    # 2. the processes that answer
    words = [*launch.words("llava.eval.infer_worker"), *options.words]
    log = folder / f"log-{launch.node_rank}.txt"
    folder.mkdir(parents=True, exist_ok=True)
    with QuestionProgress() as progress:
        code = run_module(words, log, on_poll=lambda: progress.show("aot infer", store.answered(keys), len(keys)))
    missing = len(keys) - store.answered(keys)
    if missing:
        said = f"exit code {code}: {last_log_line(log)}" if code else "no reason given"
        print(f"aot infer: {missing} of {len(keys)} questions have no answer yet ({said}; see {log})", file=sys.stderr)
        return 1
    # 3. the answers, and openly what failed
    answers = answer_lines(lines, store)
    write_jsonl(options.output, answers)
    failed = [line for line in answers if line["failure"] is not None]
    for line in failed[:10]:
        named = "" if line["id"] is None else f"{line['id']}: "
        print(f"aot infer: {named}{line['failure']}", file=sys.stderr)
    print(f"{options.output}: {len(answers) - len(failed)} answered, {len(failed)} failed")
    return 1 if failed else 0


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


def by_video(lines: list[Asked]) -> dict[str, list[Asked]]:
    """The questions by video, the most work first: bytes of the file times questions."""
    found: dict[str, list[Asked]] = {}
    for asked in lines:
        if asked.failure is None:
            found.setdefault(str(asked.video), []).append(asked)
    size = {video: Path(video).stat().st_size if Path(video).is_file() else 0 for video in found}
    return dict(sorted(found.items(), key=lambda item: -size[item[0]] * len(item[1])))


def read_questions(options: Namespace) -> list[Asked]:
    """All lines of the input, in order. Raises ChatError for a file without a question, AOTError for bad settings."""
    if options.output.is_dir():
        raise ChatError(f"--output {options.output} is a folder; name a file in it.")
    if options.output.exists() and options.input.exists() and options.output.samefile(options.input):
        raise ChatError("--output would write over --input; name another file.")
    aot = compression(options)
    identity = {  # what the answers depend on
        "checkpoint": checkpoint_fingerprint(model_path(options)),
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
    if all(asked.failure is not None for asked in lines):
        reason = f"There is no question in {options.input}"
        raise ChatError(f"{reason}: {lines[0].failure}" if lines else f"{reason}.")
    return lines


def _asked(line: bytes, where: str, folder: Path, identity: Mapping[str, Any], seen: set) -> Asked:
    """One line. seen: the ids of the lines before, to which this one's is added."""
    row: dict[str, Any] = {}
    try:
        row = parse_line(line, where)
        further = {name: value for name, value in row.items() if name not in _KEYS}
        video = _check(row, where, folder, further)
        if row["id"] in seen:
            raise LineError(f"{where} has the id {row['id']!r} of a line before it; give it one of its own.")
    except LineError as error:
        said = {name: row[name] for name in row if isinstance(row[name], (str, int))}
        return Asked(said.get("id"), said.get("video"), said.get("question"), key="", failure=str(error))
    seen.add(row["id"])
    asked = {"id": row["id"], "video": video, "question": row["question"]}
    return Asked(**asked, key=question_key(**asked, **identity, files=_files(Path(video))), further=further)


def _check(row: Mapping[str, Any], where: str, folder: Path, further: Mapping[str, Any]) -> str:
    """The video's absolute path. LineError for an object that is no question. further: what it holds besides."""
    for name in _KEYS:
        if name not in row:
            raise LineError(
                f"{where} has no {name}{meant(name, further)}; write an object with id, video and question."
            )
    if isinstance(row["id"], bool) or not isinstance(row["id"], (str, int)):
        raise LineError(f"{where}: id must be a text or a whole number.")
    if not all(isinstance(row[name], str) and row[name].strip() for name in ("video", "question")):
        raise LineError(f"{where}: video and question must be texts that are not empty.")
    try:
        to_line(further)
    except ValueError as error:
        raise LineError(f"{where} holds NaN or an infinite number, which JSON does not have; write null.") from error
    try:
        f"{row['id']}{row['question']}".encode()
        video = (folder / row["video"]).resolve()
        video.is_file()
    except UnicodeEncodeError as error:
        raise LineError(f"{where} holds half a character (a lone surrogate); write it whole.") from error
    except (ValueError, OSError) as error:  # a NUL character, too long a name
        reason = getattr(error, "strerror", None) or error
        raise LineError(f"{where}: video is no path that can be looked at ({reason}); correct it.") from error
    return str(video)


def _files(video: Path) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change of a video's file, or of what its folder holds; empty where it is not there.

    A question about a file that was replaced is another question.
    """
    try:
        files = sorted(video.iterdir()) if video.is_dir() else [video]
        return [(file.name, state.st_size, state.st_mtime_ns) for file in files for state in [file.stat()]]
    except OSError:
        return []


def answer_lines(questions: list[Asked], store: ResponseStore) -> list[dict[str, Any]]:
    """What goes out, in the order of the input; once all are done.

    What else stood in a line goes along; a name that the output has itself, such as answer, becomes input_answer.
    """
    lines = []
    for asked in questions:
        line = {"id": asked.id, "video": asked.video, "question": asked.question, "answer": None}
        if asked.failure is not None:
            line["failure"] = asked.failure
        elif (record := store.get(asked.key)) is not None:
            line |= {"answer": record.reply, "failure": record.failure, **record.details}
        further = {f"input_{name}" if name in line else name: value for name, value in asked.further.items()}
        lines.append({**line, **further})
    return lines


main = entry("infer")

if __name__ == "__main__":
    sys.exit(main())
