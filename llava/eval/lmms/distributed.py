"""Several processes at one list of questions."""

from collections.abc import Iterable, Iterator

import torch.distributed as dist

from llava.eval.lmms.questions import Question


class InMemoryStore:
    """The part of ResponseStore that answering needs, for one process that keeps nothing."""

    def __init__(self):
        self._records: dict[str, dict] = {}

    def get(self, key: str) -> dict | None:
        return self._records.get(key)

    def put(self, key: str, record: dict) -> None:
        self._records[key] = record

    def records(self) -> dict[str, dict]:
        return self._records

    def work(self, keys: Iterable[str]) -> Iterator[str]:
        yield from (key for key in keys if key not in self._records)

    def close(self) -> None:
        """Nothing to let go of."""


def all_questions(questions: list[Question]) -> list[Question]:
    """The questions of all ranks, each once, the longest first; the same list on every rank."""
    if dist.is_available() and dist.is_initialized():
        shares: list[list[Question] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, questions)
        questions = [question for share in shares for question in share]
    return longest_first(questions)


def longest_first(questions: list[Question]) -> list[Question]:
    """Each question once, those about the largest videos first, so that ranks finish together."""
    return sorted({question.key: question for question in questions}.values(), key=lambda question: question.order)
