"""Right or wrong, question by question, from what lmms-eval's graders leave in a sample."""

from collections.abc import Mapping
from typing import Any

# benchmarks whose score is the mean over kinds of questions, and the field that names the kind
GROUPED_BY = {"mlvu_dev": "task_type", "mlvu_test": "task_type"}
# pairs of fields that say what was taken from the reply and what is right
_PAIRS = (("pred_answer", "answer"), ("pred", "ground_truth"), ("parsed_pred", "answer"))


def question_score(value: Any) -> float | None:
    """The score in 0..1 of one question from a metric's per-question value; None when it holds none.

    MVBench and Video-MME state a score, MLVU, EgoSchema and LongVideoBench what was understood and what is right,
    other tasks give the number itself.
    """
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)):
        return float(value) if 0 <= value <= 1 else None
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("score"), (int, float)):
        return question_score(value["score"])
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
