"""Writes a sample clip, drawn by code, and says what can be asked about it."""

import sys
from pathlib import Path

from aot_cli.parser import Parser
from aot_tiny.worlds import WORLDS, checkpoint_world, world_named
from llava.utils import shipped


def add_options(parser: Parser) -> None:
    parser.add_argument("path", metavar="FILE", help="file to write, such as clip.mp4")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another number, another clip (default 0)")
    world = "what is drawn (default: what the embedded model has learnt)"
    parser.add_argument("--world", choices=tuple(WORLDS), help=world)
    parser.add_argument("--force", action="store_true", help="write over a file that is there")


def execute(options) -> int:
    """Writes an MP4; returns the exit code."""
    if Path(options.path).exists() and not options.force:
        print(f"{options.path} is there already; name another file, or write over it with --force.", file=sys.stderr)
        return 1
    try:
        world = world_named(options.world or checkpoint_world(shipped("checkpoints/aot-tiny") or ""))
        clip = world.write_clip(options.path, options.seed)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"{options.path} cannot be written ({reason}); choose another place.", file=sys.stderr)
        return 1
    frames = world.frames(clip)
    looked = f" ({frames} seconds; look at it with --num-frames {frames})" if frames else ""
    print(f"wrote {options.path}{looked}; for example, ask:")
    for question in world.questions.make_questions(clip)[:5]:
        print(f"  {question.text} ({question.answer})")
    return 0
