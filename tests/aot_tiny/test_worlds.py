"""The worlds: whose is whose, and what the exam on film is made of."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from aot_tiny.training.recipe import GEOMETRY
from aot_tiny.worlds import WORLDS, checkpoint_world, world_named
from llava.eval.exam.questions import chance_rate, guess_rate, make_exam

FILM = WORLDS["film"]


@pytest.fixture(scope="module")
def items():
    return make_exam(66, seed=7000, world=FILM)


def test_a_model_says_which_world_is_its_own(tmp_path):
    assert checkpoint_world(tmp_path) == "shapes"  # no configuration
    for settings, name in (({}, "shapes"), ({"exam_world": "shapes"}, "shapes"), ({"exam_world": "film"}, "film")):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        assert checkpoint_world(tmp_path) == name and world_named(name) is WORLDS[name]
    with pytest.raises(ValueError, match="use one of: shapes, film"):
        world_named("sea")


def test_families_answers_and_letters_of_the_film_exam_are_even(items):
    assert set(Counter(item.question.family for item in items).values()) == {6}
    assert len({item.clip for item in items}) <= 20
    said = Counter((item.question.family, item.question.answer) for item in items)
    assert said["presence", "yes"] == said["presence", "no"] == 3
    assert max(n for (family, _), n in said.items() if family in ("reading", "grounding")) <= 2
    for family in FILM.questions.FAMILIES:
        letters = Counter(item.letter for item in items if item.question.family == family)
        assert sorted(letters.values()) == ([3, 3] if family == "presence" else [1, 1, 2, 2])
    for item in items:
        assert item.options["ABCD".index(item.letter)] == item.question.answer
        assert len(item.options) == (2 if item.question.family == "presence" else 4) == len(set(item.options))


def test_a_guess_finds_no_answer_of_an_open_set(items):
    guesses, chances = guess_rate(items, world=FILM), chance_rate(items)
    assert chances == {f: 0.5 if f == "presence" else 0.25 for f in FILM.questions.FAMILIES}
    assert guesses["presence"] == 0.5 and guesses["reading"] <= 2 / 6
    # one interval may overlap several by half
    spans = [item.question for item in items if item.question.family == "grounding"]
    best = max(sum(FILM.score_open(said.answer, q) for q in spans) for said in spans)
    assert guesses["grounding"] == best / 6 > 0


def test_intervals_score_by_overlap_and_tell_it(items):
    question = next(item.question for item in items if item.question.family == "grounding")
    question = replace(question, answer="4 to 11")
    for said, iou in (("4 to 11", 1.0), ("4 to 7", 0.5), ("4 to 6", 0.375), ("a star", 0.0)):
        assert FILM.score_open(said, question) == float(iou >= 0.5)
        assert FILM.details(said, question) == {"iou": pytest.approx(iou)}
    assert FILM.details("red", next(item.question for item in items if item.question.family == "order")) == {}


def test_clips_are_in_a_stratum_by_camera_and_by_length(items):
    clips = [FILM.sample_clip(number) for number in {item.clip for item in items}]
    for clip in clips:
        strata, moves = FILM.strata(clip), {camera.kind for camera in clip.cameras} - {"still"}
        assert strata["camera"] == ("moving" if moves else "still") and strata["frames"] == str(clip.frames)
        assert FILM.frames(clip) == clip.frames
        if len(moves) < 2:
            assert strata["camera motion"] == (moves or {"still"}).pop()
    assert WORLDS["shapes"].frames(WORLDS["shapes"].sample_clip(0)) is None


def test_the_demonstration_shows_as_many_frames_as_a_chat_looks_at():
    assert FILM.sample_clip(FILM.demo).frames == GEOMETRY["mm_video_frames"]
