"""Drawn clips in LLaVA's JSON, to try a training on: `python -m aot_tiny.shapes.conversations FOLDER --clips 200`."""

import argparse
import json
import random
from pathlib import Path

from aot_tiny.shapes.clips import write_clip
from aot_tiny.shapes.questions import make_questions

FIRST = 20_000_000  # seed of the first clip, beyond those of the exam and of the embedded model's own training


def write_conversations(folder: Path, clips: int) -> Path:
    """Writes data.json, and so many clips with two questions about each; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for seed in range(FIRST, FIRST + clips):
        name = f"{seed}.mp4"
        clip = write_clip(folder / name, seed, size=96)
        for question in random.Random(seed).sample(make_questions(clip), 2):
            asked = {"from": "human", "value": f"<image>\n{question.open_prompt()}"}
            told = {"from": "gpt", "value": question.answer}
            samples.append({"id": f"{seed} {question.text}", "video": name, "conversations": [asked, told]})
    path = folder / "data.json"
    path.write_text(json.dumps(samples, indent=1))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    options = parser.parse_args()
    print(write_conversations(options.folder, options.clips))
