"""Questions about film clips: answers follow from the clip, options are fair, scores count what they should."""

import numpy as np
import pytest

from aot_tiny.film import questions as qa
from aot_tiny.film.clips import Camera, Clip, Thing, sample_clip

CIRCLE = Thing(
    "circle", "red", 0.1, (0.2, 0.2), (0.7, 0.2), 0.0, 16.0, begin=1.0, end=12.0, color_after="blue", change=6.0
)
SQUARE = Thing("square", "green", 0.1, (0.8, 0.8), (0.8, 0.8), on=9.0, off=13.0)
STAR = Thing("star", "white", 0.1, (0.2, 0.8), (0.2, 0.8), on=1.7, off=2.3)
SIGN = Thing("sign", "white", 0.15, (0.5, 0.6), (0.5, 0.6), 3.6, 8.6, code="47")
CLIP = Clip(1, 16, (0.0,), (Camera("still"),), (CIRCLE, SQUARE), needle=STAR, sign=SIGN)


def test_a_clip_worked_by_hand():
    answers = {q.text: q.answer for q in qa.make_questions(CLIP) if q.family != "presence"}
    assert answers == {
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
        "From which second to which is the green square visible?": "9 to 12",
        "From which second to which is the sign visible?": "4 to 8",
        "What number is on the sign?": "47",
    }


def test_presence_asks_about_what_is_there_and_about_what_only_could_be():
    asked = [q for q in qa.make_questions(CLIP) if q.family == "presence"]
    there = {f"Is there a {color} {shape} in the video?" for color, shape in (("red", "circle"), ("green", "square"))}
    assert {q.text for q in asked if q.answer == "yes"} == there
    absent = [q for q in asked if q.answer == "no"]
    assert len(absent) == 2 and not {q.text for q in absent} & there
    for question in absent:
        words = question.named.split()
        assert words[0] in ("red", "green") or words[1] in ("circle", "square")
        assert words[0] not in ("blue", "white")  # colours that are seen on something else


def test_motion_is_that_on_the_screen():
    still = Thing("ring", "cyan", 0.1, (0.6, 0.5), (0.6, 0.5), 0.0, 16.0)
    for pan, wanted in (((0.3, 0.0), "left"), ((0.0, -0.3), "down"), ((0.2, 0.2), None), ((0.0, 0.02), "not at all")):
        clip = Clip(1, 16, (0.0,), (Camera("pan", 2.0, 12.0, pan),), (still,))
        assert qa.motion(clip, still) == wanted


def test_the_caption_tells_the_clip_in_order():
    told = qa.caption(CLIP)
    assert told == (
        "A red circle moves right and turns blue. A white star flashes in the bottom left. A sign says 47. "
        "A green square appears, stays still and disappears."
    )
    assert qa.caption_f1(told, told) == 1 and qa.caption_f1("", told) == 0


@pytest.mark.parametrize("style", qa.CHOICE_PROMPTS)
def test_options_are_different_ones_with_the_answer_at_its_letter(style):
    rng = np.random.default_rng(0)
    for seed in range(5):
        for question in qa.make_questions(sample_clip(seed)):
            wanted = 2 if question.family == "presence" else 4
            assert len(question.letters()) == wanted
            for letter in question.letters():
                options = question.options(rng, letter)
                assert len(set(options)) == wanted and options["ABCD".index(letter)] == question.answer
                assert all(option in question.choice_prompt(options, style) for option in options)


def test_answers_belong_to_their_choices():
    for seed in range(40):
        for question in qa.make_questions(sample_clip(seed)):
            assert question.answer in question.choices, question
            closed = qa.ANSWERS[question.family]
            assert closed is None or set(question.choices) <= set(closed)


def test_wrong_intervals_are_wrong():
    for seed in range(40):
        for question in qa.make_questions(sample_clip(seed)):
            if question.family == "grounding":
                wrong = [c for c in question.choices if c != question.answer]
                assert max(qa.interval_iou(c, question.answer) for c in wrong) < 0.4


def test_scoring():
    grounding = next(q for q in qa.make_questions(CLIP) if q.answer == "9 to 12")
    assert qa.interval_iou("9 to 12", "9 to 12") == 1 and qa.interval_iou("from 9 to 10.", "9 to 12") == 0.5
    assert (
        qa.interval_iou("12 to 9", "9 to 12") == qa.interval_iou("9", "9 to 12") == qa.interval_iou("", "9 to 12") == 0
    )
    assert qa.open_correct("10 to 12", grounding) and not qa.open_correct("11 to 15", grounding)
    color = next(q for q in qa.make_questions(CLIP) if q.text == "What color is the square?")
    assert qa.open_correct("Green.", color) and not qa.open_correct("green square", color)
    assert qa.choice_correct("(B) red", "B") and not qa.choice_correct("A or B", "B")
