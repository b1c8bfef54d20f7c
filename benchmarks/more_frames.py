"""`--num-frames auto` against the model's own number of frames at equal tokens, on clips of the exam.

    python -m benchmarks.more_frames FOLDER [--questions 156]

Every question is asked in words and by letter, through the same session as `aot chat`, with all tokens and with a tenth
of those that the model's own frames have. A difference has the paired 95 % interval over clips, in points.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np

from aot_cli.main import make_parser
from aot_tiny.worlds import WORLDS
from llava.chat.options import load_session
from llava.eval.exam.questions import Item, clip_files, make_exam
from llava.eval.statistics import cluster_difference


def answered(items: list[Item], files: dict[int, Path], words: list[str]) -> dict[str, np.ndarray]:
    """(n,) scores of every question by form, under these options of `aot chat`."""
    world, scores = WORLDS["shapes"], defaultdict(list)
    session = load_session(make_parser().parse_args(["chat", "--max-new-tokens", "8", *words]))
    for number in files:
        session.set_video(str(files[number]))
        for item in [item for item in items if item.clip == number]:
            said = session.ask(item.question.open_prompt(), remember=False)
            chosen = session.ask(item.choice_prompt, remember=False)
            scores["open"].append(world.score_open(said.text, item.question))
            scores["choice"].append(float(world.questions.choice_correct(chosen.text, item.letter)))
    print(" ".join(words), f"{said.frames} frames, {said.after.visual} tokens", flush=True)
    return {form: np.array(values) for form, values in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.more_frames", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where clips are drawn")
    parser.add_argument("--questions", type=int, default=156)
    options = parser.parse_args()
    items = sorted(make_exam(options.questions), key=lambda item: item.clip)
    files = clip_files(items, options.folder)
    clips, families = [item.clip for item in items], np.array([item.question.family for item in items])
    for share in ("100%", "10%"):
        few, more = (answered(items, files, ["--retention", share, *way]) for way in ([], ["--num-frames", "auto"]))
        for form, scores in more.items():
            found = cluster_difference(scores, few[form], clips)
            means = [100 * fmean(values) for values in (few[form], scores)]
            print(f"{share} {form}: {means[0]:.1f} → {means[1]:.1f} ({found.low:+.1f} to {found.high:+.1f})")
            for family in sorted(set(families)):
                mine = families == family
                print(f"    {family}: {100 * few[form][mine].mean():.0f} → {100 * scores[mine].mean():.0f}")


if __name__ == "__main__":
    main()
