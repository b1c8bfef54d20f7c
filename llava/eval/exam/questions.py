"""The held-out exam of the embedded model: fixed questions on fixed clips, the same on every machine.

The clips are of a world, which draws them and asks questions about them (`aot_tiny.worlds`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aot_tiny.worlds import WORLDS, World

SEED = 0  # clips of an exam are numbered from here; training clips start at ten million
QUESTIONS = 1040
FORMS = ("open", "choice", "likelihood", "caption")  # in which a clip's questions are asked and scored
PER_CLIP = 6  # questions about a clip, at most


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


def make_exam(count: int = QUESTIONS, *, seed: int = SEED, world: World = WORLDS["shapes"]) -> list[Item]:
    """`count` questions, families equally often, answers as even as the clips allow, letters balanced.

    seed: the first clip; an exam for choosing settings takes another one than the exam that is reported.
    """
    ask = world.questions
    quota = {f: count // len(ask.FAMILIES) + (i < count % len(ask.FAMILIES)) for i, f in enumerate(ask.FAMILIES)}
    # how often one answer may be right in a family; two of an open set, which has no list of answers
    fair = {
        family: 2 if known is None else math.ceil((1 if len(known) == 2 else 1.25) * quota[family] / len(known))
        for family, known in ask.ANSWERS.items()
    }
    rng = np.random.default_rng(seed)
    taken, answers = Counter(), Counter()
    # 1. questions, clip by clip, until every family has its share
    chosen: list[tuple[int, Any]] = []
    clip = seed
    while len(chosen) < count:
        questions = ask.make_questions(world.sample_clip(clip))
        order = rng.permutation(len(questions))
        if world.even_families:
            order = sorted(order, key=lambda i: taken[questions[i].family] / max(quota[questions[i].family], 1))
        here = 0
        for i in order:
            q = questions[i]
            even = answers[q.family, q.answer] < fair[q.family]
            if here < PER_CLIP and taken[q.family] < quota[q.family] and even:
                taken[q.family] += 1
                answers[q.family, q.answer] += 1
                chosen.append((clip, q))
                here += 1
        clip += 1
    # 2. the options of each as multiple choice
    letters: dict[str, list[str]] = defaultdict(list)
    items = []
    for i, (number, q) in enumerate(chosen):
        pool = letters[q.family]
        if not pool:
            pool += ask.LETTERS[: len(q.choices)]  # two for yes and no
        letter = pool.pop(int(rng.integers(len(pool))))
        style = tuple(ask.CHOICE_PROMPTS)[i % len(ask.CHOICE_PROMPTS)]
        items.append(Item(number, q, q.options(rng, letter), letter, style))
    return items


def guess_rate(items: Sequence[Item], *, world: World = WORLDS["shapes"]) -> dict[str, float]:
    """What the best guess without looking scores on the open questions, by family: the answer that scores most on each
    form of question ("What color is the …?")."""
    forms = defaultdict(list)
    for item in items:
        q = item.question
        is_open = world.questions.ANSWERS[q.family] is None  # its choices are of one question alone
        forms[q.family, None if is_open else q.choices].append(q)
    right, total = Counter(), Counter()
    for (family, _), asked in forms.items():
        right[family] += max(sum(world.score_open(said, q) for q in asked) for said in {q.answer for q in asked})
        total[family] += len(asked)
    return {f: right[f] / total[f] for f in total}


def chance_rate(items: Sequence[Item]) -> dict[str, float]:
    """What a blind choice among the options scores, by family."""
    chances = defaultdict(list)
    for item in items:
        chances[item.question.family].append(1 / len(item.options))
    return {family: sum(values) / len(values) for family, values in chances.items()}


def clip_files(items: list[Item], folder: Path, *, world: World = WORLDS["shapes"]) -> dict[int, Path]:
    """The exam's clips as MP4 files in `folder`; clip number to file."""
    return {number: clip_file(number, folder, world=world) for number in sorted({item.clip for item in items})}


def clip_file(number: int, folder: Path, *, world: World = WORLDS["shapes"]) -> Path:
    """The MP4 file of a clip in `folder`, drawn if it is not there yet; several processes may share the folder."""
    path = folder / f"clip-{number}.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        world.write_clip(path, number)
    return path
