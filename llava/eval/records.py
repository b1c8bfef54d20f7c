"""One record a question, whoever asked it: the exam, or a run of lmms-eval."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava.eval.jsonl import LineError, read_jsonl, write_jsonl


@dataclass(frozen=True)
class Record:
    """One question of one run.

    task: (sub)task of lmms-eval; in the exam the form in which it was asked. group: what is averaged first: the
    subtask or MLVU's kind of question; in the exam the family. score: 0..1, 0 when it failed, None when the task
    scores no single questions. failure: why there is no reply. tokens, seconds: as the wrapper recorded them.
    prompt: what was asked. source: what it was asked about, where several questions share one video.
    """

    task: str
    doc_id: str
    group: str
    score: float | None
    failure: str | None
    reply: str | None
    target: str
    tokens: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    prompt: str = ""
    source: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.task, self.doc_id


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes one JSON line a question, all or nothing."""
    write_jsonl(path, map(asdict, records))


def read_records(path: Path) -> list[Record]:
    """The inverse of `write_records`. Raises LineError for a line that is no record."""
    try:
        return [Record(**row) for row in read_jsonl(path)]
    except TypeError as error:
        raise LineError(f"{path} has a line that is no question; remove the run's folder and run it again.") from error


def task_score(records: list[Record]) -> float | None:
    """Mean over groups of the mean score, in percent; None for a task that scores no single questions."""
    if not records or any(record.score is None for record in records):
        return None
    return 100 * statistics.fmean(statistics.fmean(scores) for scores in score_groups(records).values())


def score_groups(records: list[Record]) -> dict[str, list[float]]:
    """Scores by group, both in an order that depends on the questions alone."""
    groups: dict[str, list[float]] = {}
    for record in sorted(records, key=lambda record: (record.group, record.key)):
        groups.setdefault(record.group, []).append(record.score)
    return groups
