"""The demonstration: one clip, three questions, all tokens and a tenth of them."""

from pathlib import Path
from statistics import fmean
from typing import Any

from aot_cli.parser import Parser
from aot_tiny.worlds import checkpoint_world, world_named
from llava.chat.answer import Answer
from llava.chat.options import add_model_options, command, model_path, open_session
from llava.chat.terminal import Terminal


def add_options(parser: Parser) -> None:
    parser.add_argument("--output", default="demo_out", metavar="DIR", help="folder for the clip (default demo_out)")
    add_model_options(parser)


@command
def execute(options, terminal: Terminal) -> None:
    """Writes demo_out/clip.mp4, asks about it and prints the tables."""
    session = open_session(options, terminal)
    world = world_named(checkpoint_world(model_path(options)))
    path = Path(options.output, "clip.mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    questions = choose(world.questions.make_questions(world.write_clip(path, world.demo)))
    session.set_video(str(path))
    pairs = []
    for question in [questions[0], *questions]:  # the first warms up
        session.forget()  # each question in a conversation of its own
        pairs.append(session.compare(question.open_prompt()))
    show(terminal, path, questions, pairs[1:])


def choose(questions: list[Any], count: int = 3) -> list[Any]:
    """The first question of each of the first families."""
    first: dict[str, Any] = {}
    for question in questions:
        first.setdefault(question.family, question)
    return list(first.values())[:count]


def show(terminal: Terminal, path: Path, questions: list[Any], pairs: list[tuple[Answer, Answer]]) -> None:
    """Two tables: what was answered, and what it cost (means over the questions)."""
    whole, reduced = (list(side) for side in zip(*pairs, strict=True))
    share = f"{100 * reduced[0].retention:.3g} %"
    terminal.write(f"{path}: {whole[0].frames} frames")
    answers = zip(questions, whole, reduced, strict=True)
    terminal.table(["question", "truth", "100 %", share], [[q.text, q.answer, a.text, b.text] for q, a, b in answers])
    rows = [
        ["visual tokens", *(str(side[0].after.visual) for side in (whole, reduced))],
        ["newline tokens", *(str(side[0].after.newline) for side in (whole, reduced))],
    ]
    for name, stage in {"compression": "compress", "first token": "first_token", "whole answer": "total"}.items():
        means = (fmean(answer.timings[stage] for answer in side) for side in (whole, reduced))
        rows.append([f"{name}, ms", *(f"{mean:.1f}" for mean in means)])
    terminal.table(["mean of the questions", "100 %", share], rows)
    paid = whole[0].timings
    terminal.write(f"once for the video: decode {paid['decode']:.0f} ms, tower {paid['tower']:.0f} ms")
