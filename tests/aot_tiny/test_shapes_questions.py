"""Questions: answers follow from the clip, options are fair, scores count what they should."""

from collections import Counter

import numpy as np
import pytest

from aot_tiny.shapes import questions as qa
from aot_tiny.shapes.clips import Clip, Thing, sample_clip
from llava.eval.exam.questions import guess_rate, make_exam

CIRCLE = Thing("circle", "red", 0.1, (0.2, 0.2), (0.7, 0.2), "right", color_after="blue", change=6.0)
SQUARE = Thing("square", "green", 0.1, (0.8, 0.8), (0.8, 0.8), "still", on=9.0, off=13.0)
STAR = Thing("star", "white", 0.1, (0.2, 0.8), (0.2, 0.8), "still", on=1.7, off=2.3)
CLIP = Clip(seed=1, cuts=(0.0,), things=(CIRCLE, SQUARE), needle=STAR)


def answers() -> dict[str, str]:
    return {q.text: q.answer for q in qa.make_questions(CLIP)}


def test_a_clip_worked_by_hand():
    assert answers() == {
        "What shape is the green object?": "square",
        "What color is the square?": "green",
        "In which direction does the red circle move?": "right",
        "In which direction does the green square move?": "not at all",
        "How many objects appear in the video in total?": "3",
        "How many objects are visible at the start of the video?": "1",
        "How many objects are visible at the end of the video?": "1",
        "How many circles appear in the video?": "1",
        "How many squares appear in the video?": "1",
        "What color is the first new object to appear?": "white",
        "What color is the object that appears last?": "green",
        "What color is the object that disappears first?": "white",
        "Where is the red circle at the start of the video?": "top left",
        "Where is the red circle at the end of the video?": "top right",
        "Where is the green square when it appears?": "bottom right",
        "What color does the red circle become?": "blue",
        "What happens to the red circle?": "it changes color",
        "What color is the star that flashes?": "white",
        "Where does the star flash?": "bottom left",
        "When does the star flash?": "first quarter",
        "When does the red circle change color?": "second quarter",
        "When does the green square appear?": "third quarter",
        "When does the green square disappear?": "last quarter",
    }


def test_the_caption_tells_the_clip_in_order():
    told = qa.caption(CLIP)
    assert told == (
        "A red circle moves right and turns blue. A white star flashes in the bottom left. "
        "A green square appears, stays still and disappears."
    )
    assert qa.facts(told) == {
        "red circle", "red circle: moves right", "red circle: turns blue",
        "white star", "white star: flashes in the bottom left",
        "green square", "green square: appears", "green square: stays still", "green square: disappears",
    }  # fmt: skip
    assert qa.caption_f1(told, told) == 1 and qa.caption_f1("", told) == 0
    assert qa.caption_f1("A red circle moves left.", told) == pytest.approx(2 * 1 / (2 + 9))


@pytest.mark.parametrize("style", qa.CHOICE_PROMPTS)
def test_options_are_four_different_ones_with_the_answer_at_its_letter(style):
    rng = np.random.default_rng(0)
    for question in qa.make_questions(sample_clip(5)):
        for letter in qa.LETTERS:
            options = question.options(rng, letter)
            assert len(set(options)) == 4 and options["ABCD".index(letter)] == question.answer
            assert all(option in question.choice_prompt(options, style) for option in options)


def test_answers_belong_to_their_choices():
    for seed in range(50):
        for question in qa.make_questions(sample_clip(seed)):
            assert question.answer in question.choices, question
            assert set(question.choices) <= set(qa.ANSWERS[question.family])


def test_scoring():
    assert qa.same_words("Red.", "red") and qa.same_words("in the top left", "top left")
    assert not qa.same_words("red circle", "red") and not qa.same_words("", "red")
    assert qa.choice_correct("B", "B") and qa.choice_correct("(B) red", "B") and qa.choice_correct("B.", "B")
    assert not qa.choice_correct("A or B", "B") and not qa.choice_correct("Blue", "B")


def test_the_exam_is_balanced_and_repeatable():
    items = make_exam(160)
    assert items == make_exam(160)
    assert set(Counter(i.question.family for i in items).values()) == {20}
    letters = Counter(i.letter for i in items)
    assert max(letters.values()) - min(letters.values()) <= len(qa.FAMILIES)
    assert all(rate < 0.5 for rate in guess_rate(items).values())
    assert make_exam(160, seed=5000) != items
