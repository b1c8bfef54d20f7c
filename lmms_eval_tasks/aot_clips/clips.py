"""Questions about procedural clips as lmms-eval tasks: made on demand, without a network."""

import hashlib
from functools import cache
from pathlib import Path

import datasets
from lmms_eval.api.task import ConfigurableTask

from aot_tiny.shapes import clips, questions
from llava.eval.exam import questions as exam

CAPTIONED = 50  # clips that are to be described


@cache
def folder() -> Path:
    """Where clips are kept: below HF_HOME, apart for every state of the code that makes them."""
    made_by = b"".join(Path(module.__file__).read_bytes() for module in (clips, questions, exam))
    return Path(datasets.config.HF_CACHE_HOME) / "aot_clips" / hashlib.sha256(made_by).hexdigest()[:12]


@cache
def rows() -> list[dict]:
    """The questions of the exam."""
    return [
        {
            "id": number,
            "clip": item.clip,
            "family": item.question.family,
            "question": item.question.text,
            "answer": item.question.answer,
            "options": list(item.options),
            "letter": item.letter,
            "open_prompt": item.question.open_prompt(),
            "choice_prompt": item.choice_prompt,
        }
        for number, item in enumerate(exam.make_exam())
    ]


def captions() -> list[dict]:
    """The clips of the first questions, with what there is to say about each."""
    numbers = list(dict.fromkeys(row["clip"] for row in rows()))[:CAPTIONED]
    return [
        {"clip": n, "prompt": questions.CAPTION_PROMPTS[0], "caption": questions.caption(clips.sample_clip(n))}
        for n in numbers
    ]


class Questions(ConfigurableTask):
    """Every question of the exam: a task whose documents are made here instead of being loaded."""

    make = staticmethod(rows)

    def __init__(self, config=None, **arguments):
        config = {key: value for key, value in config.items() if key != "class"}
        super().__init__(config=config, **arguments)

    def download(self, dataset_kwargs=None) -> None:
        self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_list(self.make())})
        self.dataset_no_image = self.dataset


class Captions(Questions):
    """Clips to describe."""

    make = staticmethod(captions)


def doc_to_visual(doc: dict) -> list[str]:
    """The file of the clip, drawn when it is first asked for."""
    return [str(exam.clip_file(doc["clip"], folder()))]


def open_prompt(doc: dict, lmms_eval_specific_kwargs=None) -> str:
    return doc["open_prompt"]


def choice_prompt(doc: dict, lmms_eval_specific_kwargs=None) -> str:
    return doc["choice_prompt"]


def score_open(doc: dict, results: list[str]) -> dict[str, float]:
    return _scores(doc, questions.same_words(results[0], doc["answer"]), results[0])


def score_choice(doc: dict, results: list[str]) -> dict[str, float]:
    return _scores(doc, questions.choice_correct(results[0], doc["letter"]), results[0])


def score_caption(doc: dict, results: list[str]) -> dict[str, float]:
    return {"f1": questions.caption_f1(results[0], doc["caption"]), "failed": _failed(results[0])}


def _scores(doc: dict, right: bool, reply: str) -> dict[str, float]:
    """The score of one question, as a whole and under its family's name."""
    return {"accuracy": float(right), doc["family"]: float(right), "failed": _failed(reply)}


def _failed(reply: str) -> float:
    """Whether the question failed, as the wrappers of this project mark it."""
    return float(reply.startswith("[failed]"))
