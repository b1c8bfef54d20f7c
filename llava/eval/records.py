"""One record a question, whoever asked it: the exam, a run of lmms-eval, or a file of questions."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llava.eval.jsonl import LineError, read_jsonl, write_jsonl


@dataclass(frozen=True)
class Record:
    """One question of one run.

    task: (sub)task of lmms-eval; in the exam the form in which it was asked; of a file of questions "infer".
    group: what is averaged first: the subtask or MLVU's kind of question; in the exam the family.
    score: 0..1, 0 when it failed, None when nobody has scored it. failure: why there is no reply.
    tokens: counts, of which tables read visual and visual_before. seconds: by stage.
    prompt: what was asked. source: the video, where several questions share one. strata: further columns to group by,
    such as the camera or the length of the clip. details: what else is told of the answer.
    """

    task: str
    doc_id: str
    group: str = ""
    score: float | None = None
    failure: str | None = None
    reply: str | None = None
    target: str = ""
    tokens: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    prompt: str = ""
    source: str = ""
    strata: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return self.task, self.doc_id


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes one JSON line a question, all or nothing."""
    write_jsonl(path, map(asdict, records))


def read_records(path: Path) -> list[Record]:
    """The inverse of `write_records`. Raises LineError for a line that is no record."""
    try:
        return [record_from(row) for row in read_jsonl(path)]
    except TypeError as error:
        raise LineError(f"{path} has a line that is no question; remove the run's folder and run it again.") from error


def record_from(row: Mapping[str, Any]) -> Record:
    """The record of a row that may hold more, as those of earlier releases. TypeError without task and doc_id."""
    known = {field.name for field in fields(Record)}
    return Record(**{name: str(value) if name == "doc_id" else value for name, value in row.items() if name in known})


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
