"""One question of lmms-eval: what is asked, its key, the rank that asks it, and what its grader is handed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from lmms_eval.api.instance import Instance

from llava.eval.records import Record

PADDING = "__padding_only__"  # lmms-eval marks requests that only even out the ranks
FAILED, EMPTY = "[failed]", "[empty]"


@dataclass(frozen=True)
class Question:
    """What one request asks, without the functions of its task, so that it can be sent to another rank."""

    task: str
    split: str
    doc_id: int
    prompt: str
    generation: dict = field(hash=False)
    key: str
    size: int  # of the video files, bytes: the longest are asked first


def gather(value: Any) -> list[Any]:
    """The values of all ranks, on every rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def deal(shares: list[list[Question]], holders: Mapping[str, list[int]]) -> list[list[Question]]:
    """Equal shares of all questions, each once: those about the largest videos first, in turns.

    shares: by rank, as lmms-eval hands them out. holders: the ranks that can load the documents of a task.
    """
    dealt: list[list[Question]] = [[] for _ in shares]
    everything = {question.key: question for share in shares for question in share}.values()
    for question in sorted(everything, key=lambda q: (-q.size, -len(q.prompt), q.task, q.doc_id)):
        min((dealt[rank] for rank in holders[question.task]), key=len).append(question)
    return dealt


def use_stock_prompt(request: Instance, stock_id: str) -> None:
    """Puts the prompt that lmms-eval gives to the stock model id in the place of the default one.

    Prompts depend on the name behind --model; under another name the same model would be asked something else.
    """
    task = getattr(request.args[2], "__self__", None)
    named = getattr(getattr(task, "config", None), "lmms_eval_specific_kwargs", None)
    if not isinstance(named, dict) or not isinstance(named.get(stock_id), dict):
        return
    doc = task.dataset_no_image[request.args[5]][request.args[3]]
    saved, task.lmms_eval_specific_kwargs = task.lmms_eval_specific_kwargs, named[stock_id]
    wanted = task.doc_to_text(doc)
    task.lmms_eval_specific_kwargs = saved
    prompt, usual = request.args[0], task.doc_to_text(doc)
    if usual and prompt.endswith(usual):
        request.arguments = (prompt[: len(prompt) - len(usual)] + wanted, *request.args[1:])


def reply_to_grade(record: Record, doc: Mapping[str, Any]) -> str:
    """What the grader is handed: the reply, or for a failed question something that it counts as wrong.

    Graders leave empty replies out of the mean (MVBench) or guess an option where none is named (EgoSchema,
    LongVideoBench), so a failed question gets a text without capital letters, and there an option that is wrong.
    """
    if record.failure is None:
        return record.reply or EMPTY
    if "correct_choice" in doc:  # LongVideoBench: a number, and option0, option1, ... up to "N/A"
        right = int(doc["correct_choice"])
    elif "option" in doc and str(doc.get("answer", "")).isdigit():  # EgoSchema: a number as text
        right = int(doc["answer"])
    else:
        return FAILED
    return f"{FAILED} (A)" if right != 0 else f"{FAILED} (B)"
