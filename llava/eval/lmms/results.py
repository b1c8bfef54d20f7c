"""What a finished run of lmms-eval says, question by question, with the failures of the response store."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava.eval.jsonl import LineError, read_jsonl
from llava.eval.records import Record
from llava.eval.store import ResponseStore

# benchmarks whose score is the mean over kinds of questions, and the field that names the kind
GROUPED_BY = {"mlvu_dev": "task_type", "mlvu_test": "task_type"}
_STATED = ("score", "rating", "correct")  # fields that say it themselves
# pairs of fields that say what was taken from the reply and what is right
_PAIRS = (("pred_answer", "answer"), ("pred", "ground_truth"), ("parsed_pred", "answer"))
_PREFERRED = ("accuracy", "acc", "exact_match", "f1")


class ResultError(ValueError):
    """A run did not leave what a complete run leaves; the text is one sentence."""


def read_outcome(attempt: Path, store: Path | None) -> tuple[list[Record], dict[str, dict[str, float]]]:
    """All questions of a run in a fixed order, and lmms-eval's own scores by (sub)task, as it prints them.

    attempt: where lmms-eval left its files. store: of the records.

    Raises ResultError when result or sample files are missing, when a question is missing or twice, or when the
    store knows nothing of one.
    """
    files = sorted(attempt.rglob("*_results.json"))
    if not files:
        raise ResultError("lmms-eval left no results file")
    try:
        results = json.loads(files[-1].read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"lmms-eval's results file {files[-1]} is no JSON") from error
    records = {r.key: r for r in ResponseStore(store).records().values()} if store else None
    questions: list[Record] = []
    scores: dict[str, dict[str, float]] = {}
    for task, counts in results["n-samples"].items():
        told = results["results"].get(task, {})
        scores[task] = {
            name.partition(",")[0]: float(value)
            for name, value in told.items()
            if "stderr" not in name and isinstance(value, (int, float)) and math.isfinite(value)
        }
        samples = _samples(files[-1].parent, task)
        if len(samples) != counts["effective"]:
            raise ResultError(f"lmms-eval left {len(samples)} of {counts['effective']} questions of {task}")
        # the one over all questions of a task goes before those of a kind
        rank = {name: place for place, name in enumerate(_PREFERRED)}
        metrics = sorted((name.partition(",")[0] for name in told), key=lambda name: rank.get(name, len(rank)))
        questions += [_question(task, sample, metrics, records) for sample in samples]
    questions.sort(key=lambda q: (q.task, len(q.doc_id), q.doc_id))
    if len({q.key for q in questions}) != len(questions):
        raise ResultError("lmms-eval left some questions twice")
    return questions, scores


def _samples(folder: Path, task: str) -> list[dict]:
    files = sorted(folder.glob(f"*_samples_{task}.jsonl"))
    if not files:
        raise ResultError(f"lmms-eval left no samples of {task}")
    try:
        return read_jsonl(files[-1])
    except LineError as error:
        raise ResultError(f"lmms-eval's samples cannot be read: {error}") from error


def _question(task: str, sample: dict, metrics: list[str], records: dict[tuple[str, str], Record] | None) -> Record:
    """The record that the wrapper left, or a new one, with score and target."""
    doc_id = str(sample["doc_id"])
    record = Record(task, doc_id) if records is None else records.get((task, doc_id))
    if record is None:
        raise ResultError(f"question {doc_id} of {task} is not in the response store")
    named = [name for name in metrics if name != "failed"]
    value = next((sample[name] for name in named if question_score(sample.get(name)) is not None), None)
    failed = record.failure is not None
    reply = sample.get("filtered_resps")
    while isinstance(reply, list):
        reply = reply[0] if reply else None
    return replace(
        record,
        group=question_group(task, value),
        score=0.0 if failed and value is not None else question_score(value),
        reply=None if failed or reply is None else str(reply),
        target=str(sample.get("target", "")),
    )


def question_score(value: Any) -> float | None:
    """The score in 0..1 of one question from a metric's per-question value; None when it holds none.

    MVBench and Video-MME state a score, TempCompass a rating, MMVU whether it is correct, MLVU, EgoSchema and
    LongVideoBench what was understood and what is right, other tasks give the number itself.
    """
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)):
        return float(value) if 0 <= value <= 1 else None
    if not isinstance(value, Mapping):
        return None
    stated = next((value[name] for name in _STATED if isinstance(value.get(name), (int, float))), None)
    if stated is not None:
        return question_score(stated)
    for said, right in _PAIRS:
        if said in value and right in value:
            return float(str(value[said]) == str(value[right]))
    return None


def question_group(task: str, value: Any) -> str:
    """The group within which a benchmark averages first: the subtask, and for MLVU its kind of question."""
    field = GROUPED_BY.get(task)
    if field and isinstance(value, Mapping) and field in value:
        return f"{task}/{value[field]}"
    return task
