"""Drawn clips in LLaVA's JSON, to try a training on: `python -m aot_tiny.shapes.conversations FOLDER --clips 200`."""

import argparse
import json
import random
from pathlib import Path

import numpy as np

from aot_tiny.shapes.clips import write_clip
from aot_tiny.shapes.questions import make_questions

FIRST = 20_000_000  # seed of the first clip, beyond those of the exam and of the embedded model's own training


def write_conversations(folder: Path, clips: int, *, turns: int = 0) -> Path:
    """Writes data.json, and so many clips with two questions about each; returns the file.

    turns: so many questions about a clip instead, each in words or by letter, as the turns of one conversation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for seed in range(FIRST, FIRST + clips):
        name = f"{seed}.mp4"
        questions = make_questions(write_clip(folder / name, seed))
        if turns:
            rng, exchanges = np.random.default_rng(seed), []
            for question in (questions[number] for number in rng.permutation(len(questions))):
                letter = str(rng.choice(list(question.letters())))
                by_letter = question.choice_prompt(question.options(rng, letter)), letter
                exchanges.append(by_letter if rng.random() < 0.5 else (question.open_prompt(), question.answer))
            samples.append({"id": str(seed), "video": name, "conversations": _conversation(exchanges[:turns])})
            continue
        for question in random.Random(seed).sample(questions, 2):
            talk = _conversation([(question.open_prompt(), question.answer)])
            samples.append({"id": f"{seed} {question.text}", "video": name, "conversations": talk})
    path = folder / "data.json"
    path.write_text(json.dumps(samples, indent=1))
    return path


def _conversation(exchanges: list[tuple[str, str]]) -> list[dict[str, str]]:
    """A conversation about a video that is shown before its first prompt."""
    prompts = [("<image>\n" if number == 0 else "") + prompt for number, (prompt, _) in enumerate(exchanges)]
    rows = [(("human", prompt), ("gpt", answer)) for prompt, (_, answer) in zip(prompts, exchanges, strict=True)]
    return [{"from": who, "value": text} for row in rows for who, text in row]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--turns", type=int, default=0, help="questions about a clip, as turns of one conversation")
    options = parser.parse_args()
    print(write_conversations(options.folder, options.clips, turns=options.turns))
