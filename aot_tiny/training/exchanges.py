"""Exchanges to learn from: questions about a clip, captions, and questions that a text answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from aot_tiny.film import questions as qa
from aot_tiny.film.clips import COLORS

SHORT_STYLES, LONG_STYLES = ("egoschema", "mlvu"), ("videomme",)  # wordings of a choice, by length
ROW = {"open": 40, "short": 80, "long": 116}  # tokens of a packed row


@dataclass(frozen=True)
class Segment:
    """One exchange as the qwen_1_5 template puts it behind <image>.

    tokens: prompt and answer. learnt: whether a token is to be predicted. video: whether it may look at the video.
    query: the prompt's last token, which predicts the answer's first. look: for a guide, the tokens of the prompt that
    the query should look at. evidence: what it should look at in the video.
    """

    tokens: list[int]
    learnt: list[bool]
    video: bool
    query: int = 0
    look: dict[str, list[int]] = field(default_factory=dict)
    evidence: qa.Evidence | None = None


@dataclass(frozen=True)
class Exchange:
    """Prompt and answer. marks: for a guide, the characters [start, end) of the prompt that it is told to look at."""

    prompt: str
    answer: str
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    evidence: qa.Evidence | None = None


def segment(tokenizer, exchange: Exchange, *, video: bool = True) -> Segment:
    """An exchange as tokens, of which the answer's are learnt."""
    text = f"\n{exchange.prompt}<|im_end|>\n<|im_start|>assistant\n"
    asked = tokenizer(text, return_offsets_mapping=True)
    said = tokenizer(f"{exchange.answer}<|im_end|>").input_ids
    look = {
        guide: [i for i, (a, b) in enumerate(asked.offset_mapping) if a < end + 1 and b > start + 1]
        for guide, (start, end) in exchange.marks.items()
    }
    query = len(asked.input_ids) - 1
    learnt = [False] * (query + 1) + [True] * len(said)
    return Segment(asked.input_ids + said, learnt, video, query, look, exchange.evidence)


def ask(question: qa.Question, rng: np.random.Generator, styles: tuple[str, ...] = ()) -> Exchange:
    """A question put openly, or as a choice worded in one of the styles."""
    if not styles:
        prompt = question.open_prompt()
        return Exchange(prompt, question.answer, _marks(prompt, question.named), question.evidence)
    letter, style = str(rng.choice(list(question.letters()))), str(rng.choice(styles))
    prompt = question.choice_prompt(question.options(rng, letter), style)
    marks = _marks(prompt, question.named, _line(style, letter, question.answer), question.answer)
    return Exchange(prompt, letter, marks, question.evidence)


def _line(style: str, letter: str, option: str) -> str:
    return qa.OPTION_STYLE[style].format(letter, option)


def _marks(prompt: str, named: str, line: str = "", option: str = "") -> dict[str, tuple[int, int]]:
    """Where the prompt first says what is meant, and where the line of the right option says it."""
    marks = {}
    if named:
        start = prompt.index(named)
        marks["name"] = (start, start + len(named))
    if line:
        end = prompt.index(f"\n{line}") + 1 + len(line)
        marks["option"] = (end - len(option), end)
    return marks


def pick(questions: list[qa.Question], rng: np.random.Generator, count: int) -> list[qa.Question]:
    """`count` questions, families equally likely, the commonest answers held back and the kinds that are learnt last
    drawn more often; none twice while they last."""
    rare = {"not at all": 0.4, "it stays": 0.4, "1": 0.5}
    late = [q.choices in (qa.SHAPES, qa.CHANGES) or q.named == "disappears first" for q in questions]
    sizes = Counter(q.family for q in questions)
    weight = np.array([rare.get(q.answer, 1.0) / sizes[q.family] for q in questions]) * np.where(late, 2.5, 1.0)
    again = count > len(questions)
    chosen = rng.choice(len(questions), count, replace=again, p=weight / weight.sum())
    return [questions[i] for i in chosen]


def copied(questions: list[qa.Question], rng: np.random.Generator, *, bare: float = 0.0) -> Exchange:
    """One of the questions behind its answer: what a letter stands for is learnt from these. bare: probability that the
    options stand alone, most often single words."""
    if rng.random() < bare:
        question, style = _simple(questions, rng), str(rng.choice(SHORT_STYLES))
        letter = str(rng.choice(list(question.letters())))
        prompt, answer = _lines(question.options(rng, letter), style), letter
    else:
        (question,) = pick(questions, rng, 1)
        letter, style = str(rng.choice(list(question.letters()))), str(rng.choice(("", *SHORT_STYLES, *LONG_STYLES)))
        prompt, answer = question.open_prompt(), question.answer
        if style:
            prompt, answer = question.choice_prompt(question.options(rng, letter), style), letter
    prompt = f"The answer is {question.answer}.\n{prompt}"
    line = _line(style, letter, question.answer) if style else ""
    return Exchange(prompt, answer, _marks(prompt, question.answer, line, question.answer))


def _simple(questions: list[qa.Question], rng: np.random.Generator) -> qa.Question:
    """A question whose answer is a color or a shape, or now and then any other."""
    if rng.random() < 0.3:
        return pick(questions, rng, 1)[0]
    words = (tuple(COLORS), qa.SHAPES)[rng.integers(2)]
    return qa.Question("attribute", "", str(rng.choice(words)), words)


def _lines(options: tuple[str, ...], style: str) -> str:
    return "\n".join(_line(style, c, o) for c, o in zip(qa.LETTERS, options, strict=False))
