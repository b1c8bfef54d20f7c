"""Exchanges to learn from: questions about a clip, captions, and questions that a text answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from llava.eval import clips
from llava.eval import questions as qa
from llava.eval.clips import COLORS

SHORT_STYLES, LONG_STYLES = ("egoschema", "mlvu"), ("videomme",)  # wordings of a choice, by length
ROW = {"open": 34, "short": 56, "long": 96}  # tokens of a packed row


@dataclass(frozen=True)
class Segment:
    """One exchange as the qwen_1_5 template puts it behind <image>.

    tokens: prompt and answer. learnt: whether a token is to be predicted. video: whether it may look at the video.
    """

    tokens: list[int]
    learnt: list[bool]
    video: bool


def segment(tokenizer, prompt: str, answer: str, *, video: bool = True, only: set[int] | None = None) -> Segment:
    """An exchange as tokens. only: the tokens of the answer that are learnt, None for all."""
    asked = tokenizer(f"\n{prompt}<|im_end|>\n<|im_start|>assistant\n").input_ids
    said = tokenizer(f"{answer}<|im_end|>").input_ids
    return Segment(asked + said, [False] * len(asked) + [only is None or t in only for t in said], video)


def ask(question: qa.Question, rng: np.random.Generator, styles: tuple[str, ...] = ()) -> tuple[str, str]:
    """Prompt and answer of a question: openly, or as a choice worded in one of the styles."""
    if not styles:
        return question.open_prompt(), question.answer
    letter = str(rng.choice(list(qa.LETTERS)))
    return question.choice_prompt(question.options(rng, letter), str(rng.choice(styles))), letter


def pick(questions: list[qa.Question], rng: np.random.Generator, count: int) -> list[qa.Question]:
    """`count` questions, families equally likely and the commonest answers held back; none twice while they last."""
    rare = {"not at all": 0.4, "it stays": 0.4, "1": 0.5}
    sizes = Counter(q.family for q in questions)
    weight = np.array([rare.get(q.answer, 1.0) / sizes[q.family] for q in questions])
    again = count > len(questions)
    chosen = rng.choice(len(questions), count, replace=again, p=weight / weight.sum())
    return [questions[i] for i in chosen]


def any_style(rng: np.random.Generator, choice: float) -> tuple[str, ...]:
    return SHORT_STYLES + LONG_STYLES if rng.random() < choice else ()


def copied(clip: clips.Clip, rng: np.random.Generator, *, bare: float = 0.0) -> tuple[str, str]:
    """A question behind its answer: what a letter stands for is learnt from these. bare: probability that the options
    stand alone, most often single words."""
    if rng.random() < bare:
        question, letter = _simple(clip, rng), str(rng.choice(list(qa.LETTERS)))
        return f"The answer is {question.answer}.\n{_lines(question.options(rng, letter), rng)}", letter
    (question,) = pick(qa.make_questions(clip), rng, 1)
    prompt, answer = ask(question, rng, any_style(rng, 0.85))
    return f"The answer is {question.answer}.\n{prompt}", answer


def matched(clip: clips.Clip, rng: np.random.Generator, *, bare: float = 0.0) -> tuple[str, str]:
    """Four options, then what the letter of each is, in another order: the same skill, asked four times at once."""
    alone = rng.random() < bare
    question = _simple(clip, rng) if alone else pick(qa.make_questions(clip), rng, 1)[0]
    options = question.options(rng, str(rng.choice(list(qa.LETTERS))))
    told = ", ".join(f"{options[i]} {qa.LETTERS[i]}" for i in rng.permutation(4))
    prompt = _lines(options, rng) if alone else question.choice_prompt(options, str(rng.choice(SHORT_STYLES)))
    return prompt, told


def _simple(clip: clips.Clip, rng: np.random.Generator) -> qa.Question:
    """A question whose answer is a color, or now and then any other."""
    if rng.random() < 0.3:
        return pick(qa.make_questions(clip), rng, 1)[0]
    return qa.Question("attribute", "", str(rng.choice(list(COLORS))), tuple(COLORS))


def _lines(options: tuple[str, ...], rng: np.random.Generator) -> str:
    style = qa.OPTION_STYLE[str(rng.choice(SHORT_STYLES))]
    return "\n".join(style.format(c, o) for c, o in zip(qa.LETTERS, options, strict=True))


def text_segment(
    tokenizer, clip: clips.Clip, rng: np.random.Generator, *, matching: float = 0.5, bare: float
) -> Segment:
    """An exchange that text alone answers: `matched` with this probability, else `copied`."""
    if rng.random() < matching:
        letters = {tokenizer(f"x {letter}").input_ids[-1] for letter in qa.LETTERS}
        return segment(tokenizer, *matched(clip, rng, bare=bare), video=False, only=letters)
    return segment(tokenizer, *copied(clip, rng, bare=bare), video=False)
