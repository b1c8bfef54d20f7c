"""The held-out exam of the embedded model: fixed questions on fixed clips, the same on every machine.

The clips are of a world, a package of `aot_tiny` that draws clips and asks questions about them.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from aot_tiny.shapes import clips as shapes_clips
from aot_tiny.shapes import questions as shapes_questions

SEED = 0  # clips of an exam are numbered from here; training clips start at ten million
QUESTIONS = 1040  # 130 a family


@dataclass(frozen=True)
class World:
    """Where an exam's clips and questions come from.

    clips: a module with sample_clip and write_clip. questions: one with FAMILIES, ANSWERS, CHOICE_PROMPTS, LETTERS,
    CAPTION_PROMPTS, make_questions, choice_correct, caption and caption_f1. score_open: 0..1 of an open answer to a
    question. strata: of a clip, further columns to group its records by.
    """

    clips: ModuleType
    questions: ModuleType
    score_open: Callable[[str, Any], float]
    strata: Callable[[Any], dict[str, str]] = lambda clip: {}


WORLDS = {
    "shapes": World(
        shapes_clips,
        shapes_questions,
        score_open=lambda said, question: float(shapes_questions.open_correct(said, question.answer)),
    ),
}


@dataclass(frozen=True)
class Item:
    """One question of the exam; it is asked openly and, with these options, as multiple choice."""

    clip: int
    question: Any
    options: tuple[str, ...]
    letter: str
    style: str

    @property
    def choice_prompt(self) -> str:
        return self.question.choice_prompt(self.options, self.style)


def make_exam(
    count: int = QUESTIONS, *, seed: int = SEED, per_clip: int = 6, world: World = WORLDS["shapes"]
) -> list[Item]:
    """`count` questions, families equally often, answers as even as the clips allow, letters balanced.

    seed: the first clip; an exam for choosing settings takes another one than the exam that is reported.
    """
    ask = world.questions
    quota = {f: count // len(ask.FAMILIES) + (i < count % len(ask.FAMILIES)) for i, f in enumerate(ask.FAMILIES)}
    rng = np.random.default_rng(seed)
    taken, answers = Counter(), Counter()
    # 1. questions, clip by clip, until every family has its share
    chosen: list[tuple[int, Any]] = []
    clip = seed
    while len(chosen) < count:
        questions = ask.make_questions(world.clips.sample_clip(clip))
        here = 0
        for i in rng.permutation(len(questions)):
            q = questions[i]
            fair = math.ceil(1.25 * quota[q.family] / len(ask.ANSWERS[q.family]))
            if here < per_clip and taken[q.family] < quota[q.family] and answers[q.family, q.answer] < fair:
                taken[q.family] += 1
                answers[q.family, q.answer] += 1
                chosen.append((clip, q))
                here += 1
        clip += 1
    # 2. the options of each as multiple choice
    letters = defaultdict(lambda: [*ask.LETTERS])
    items = []
    for i, (number, q) in enumerate(chosen):
        pool = letters[q.family]
        letter = pool.pop(int(rng.integers(len(pool))))
        if not pool:
            letters.pop(q.family)
        style = tuple(ask.CHOICE_PROMPTS)[i % len(ask.CHOICE_PROMPTS)]
        items.append(Item(number, q, q.options(rng, letter), letter, style))
    return items


def guess_rate(items: list[Item]) -> dict[str, float]:
    """What the best guess without looking scores on the open questions, by family: the commonest answer to each
    form of question ("What color is the …?")."""
    right, total = Counter(), Counter()
    by_form = defaultdict(Counter)
    for item in items:
        by_form[item.question.family, item.question.choices][item.question.answer] += 1
    for (family, _), counts in by_form.items():
        right[family] += max(counts.values())
        total[family] += sum(counts.values())
    return {f: right[f] / total[f] for f in total}


def clip_files(items: list[Item], folder: Path, *, world: World = WORLDS["shapes"]) -> dict[int, Path]:
    """Write the exam's clips as MP4 files to `folder` (those not there yet); clip number to file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for number in sorted({item.clip for item in items}):
        path = paths[number] = folder / f"clip-{number}.mp4"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}.part.mp4")  # several processes may share the folder
            world.clips.write_clip(part, number)
            part.rename(path)
    return paths
