"""Drawn clips as conversations: every prompt has its own clip's answer, in the form that it asks for."""

import json

import pytest

from aot_tiny.shapes.clips import sample_clip
from aot_tiny.shapes.conversations import FIRST, write_conversations
from aot_tiny.shapes.questions import make_questions
from llava.train.conversations import parse_sample


def answered(prompt: str, clip: int) -> set[str]:
    """What may be answered: the words, or the letter in front of them."""
    question = max((q for q in make_questions(sample_clip(clip)) if q.text in prompt), key=lambda q: len(q.text))
    letters = {line[0] for line in prompt.splitlines() if line[1:] == f". {question.answer}"}
    return letters or {question.answer}


@pytest.mark.parametrize("turns", [0, 5])
def test_prompts_have_their_answers(tmp_path, turns):
    samples = json.loads(write_conversations(tmp_path, 3, turns=turns).read_text())
    assert len(samples) == (3 if turns else 6) and len({sample["id"] for sample in samples}) == len(samples)
    forms = set()
    for number, raw in enumerate(samples):
        clip = FIRST + (number if turns else number // 2)
        assert raw["video"] == f"{clip}.mp4" and (tmp_path / raw["video"]).is_file()
        said = parse_sample(raw, number).turns
        assert [who for who, _ in said] == [0, 1] * (turns or 1)
        assert ["<image>" in text for _, text in said] == [True] + [False] * (len(said) - 1)
        for (_, prompt), (_, answer) in zip(said[::2], said[1::2], strict=True):
            assert {answer} == answered(prompt, clip)
            forms.add(answer in "ABCD")
    assert forms == ({True, False} if turns else {False})
