"""Writes a sample clip, drawn by code, and says what can be asked about it."""

import sys

from llava.eval.world.clips import write_clip
from llava.eval.world.questions import make_questions
from llava.serve.options import Parser


def main(arguments: list[str] | None = None, *, prog: str = "python -m llava.serve.clip") -> int:
    """Writes an MP4; returns the exit code."""
    parser = Parser(prog=prog, description="Write a short MP4 of moving shapes to try the chat on.")
    parser.add_argument("path", help="file to write, such as clip.mp4")
    parser.add_argument("--seed", type=int, default=0, help="another number, another clip (default 0)")
    options = parser.parse_args(arguments)
    try:
        clip = write_clip(options.path, options.seed)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"{options.path} cannot be written ({reason}); choose another place.", file=sys.stderr)
        return 1
    print(f"wrote {options.path}; for example, ask:")
    for question in make_questions(clip)[:5]:
        print(f"  {question.text} ({question.answer})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
