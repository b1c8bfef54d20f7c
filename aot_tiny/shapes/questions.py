"""Questions about clips of shapes: those families of film's that such a clip settles, with the same scores."""

from __future__ import annotations

from aot_tiny.film import questions as film
from aot_tiny.film.questions import (
    CAPTION_PROMPTS,
    CHOICE_PROMPTS,
    LETTERS,
    Question,
    caption,
    caption_f1,
    choice_correct,
    facts,
    open_correct,
    same_words,
)
from aot_tiny.shapes.clips import Clip

__all__ = [
    "ANSWERS", "CAPTION_PROMPTS", "CHOICE_PROMPTS", "FAMILIES", "LETTERS", "Question", "caption", "caption_f1",
    "choice_correct", "facts", "make_questions", "open_correct", "same_words",
]  # fmt: skip

FAMILIES = ("attribute", "motion", "counting", "order", "position", "state", "needle", "when")
ANSWERS = {family: film.ANSWERS[family] for family in FAMILIES} | {"counting": film.NUMBERS[: Clip.most_objects]}


def make_questions(clip: Clip) -> list[Question]:
    """Every question whose answer the clip settles."""
    return film.make_questions(clip, FAMILIES)
