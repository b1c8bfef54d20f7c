"""Draws what is kept of a video: `aot visualize clip.mp4 --retention 0.1 --output pictures`."""

from pathlib import Path

from aot.visualize import require, visualize
from aot_cli.parser import Parser
from llava.chat.options import EXPECTED, add_model_options, load_session, one_sentence
from llava.chat.session import ChatError
from llava.chat.terminal import Terminal


def execute(options) -> int:
    """Writes the pictures; returns the exit code: 0, or 1 after one sentence on standard error."""
    terminal = Terminal()
    try:
        paths = run(options, terminal)
    except EXPECTED as error:
        terminal.error(one_sentence(error))
        return 1
    for path in paths.values():
        terminal.write(str(path))
    return 0


def run(options, terminal: Terminal) -> dict[str, Path]:
    """Checks everything that is cheap to check, then loads, compresses and draws; paths of what was written."""
    if not Path(options.video).exists():
        raise ChatError(f"There is no video at {options.video}; check the path.")
    require()
    with terminal.waiting("loading the model"):
        session = load_session(options)
    if session.prompt_style.note:
        terminal.note(session.prompt_style.note)
    with terminal.waiting("decode") as wait:
        session.set_video(options.video, progress=wait)
    with terminal.waiting("drawing"):
        name = Path(options.video).name
        return visualize(session.traced(), *session.drawn, options.output, name=name)


def add_options(parser: Parser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="video file, or folder of .png/.jpg frames")
    parser.add_argument(
        "--output",
        default="pictures",
        metavar="DIR",
        help="folder of what is drawn (default pictures)",
    )
    add_model_options(parser, answers=False)
