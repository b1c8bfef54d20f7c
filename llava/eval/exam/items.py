"""The held-out exam of the embedded model: fixed questions on fixed clips, the same on every machine."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aot_tiny.shapes.clips import sample_clip, write_clip
from aot_tiny.shapes.questions import ANSWERS, CHOICE_PROMPTS, FAMILIES, LETTERS, Question, make_questions

SEED = 0  # clips of an exam are numbered from here; training clips start at ten million
QUESTIONS = 1040  # 130 a family


@dataclass(frozen=True)
class Item:
    """One question of the exam; it is asked openly and, with these options, as multiple choice."""

    clip: int
    question: Question
    options: tuple[str, ...]
    letter: str
    style: str

    @property
    def choice_prompt(self) -> str:
        return self.question.choice_prompt(self.options, self.style)


def make_exam(count: int = QUESTIONS, *, seed: int = SEED, per_clip: int = 6) -> list[Item]:
    """`count` questions, families equally often, answers as even as the clips allow, letters balanced.

    seed: the first clip; an exam for choosing settings takes another one than the exam that is reported.
    """
    quota = {f: count // len(FAMILIES) + (i < count % len(FAMILIES)) for i, f in enumerate(FAMILIES)}
    rng = np.random.default_rng(seed)
    taken, answers = Counter(), Counter()
    chosen: list[tuple[int, Question]] = []
    clip = seed
    while len(chosen) < count:
        questions = make_questions(sample_clip(clip))
        here = 0
        for i in rng.permutation(len(questions)):
            q = questions[i]
            fair = math.ceil(1.25 * quota[q.family] / len(ANSWERS[q.family]))
            if here < per_clip and taken[q.family] < quota[q.family] and answers[q.family, q.answer] < fair:
                taken[q.family] += 1
                answers[q.family, q.answer] += 1
                chosen.append((clip, q))
                here += 1
        clip += 1
    letters = defaultdict(lambda: [*LETTERS])
    items = []
    for i, (number, q) in enumerate(chosen):
        pool = letters[q.family]
        letter = pool.pop(int(rng.integers(len(pool))))
        if not pool:
            letters.pop(q.family)
        style = tuple(CHOICE_PROMPTS)[i % len(CHOICE_PROMPTS)]
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


def clip_files(items: list[Item], folder: Path) -> dict[int, Path]:
    """Write the exam's clips as MP4 files to `folder` (those not there yet); clip number to file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for number in sorted({item.clip for item in items}):
        path = paths[number] = folder / f"clip-{number}.mp4"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}.part.mp4")  # several processes may share the folder
            write_clip(part, number)
            part.rename(path)
    return paths
