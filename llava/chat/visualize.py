"""Draws what is kept of a video: `aot visualize clip.mp4 --retention 0.1 --output pictures`."""

from pathlib import Path

from aot.visualize import require, visualize
from aot_cli.parser import Parser
from llava.chat.options import add_model_options, command, open_session
from llava.chat.terminal import Terminal
from llava.video import check_path


@command
def execute(options, terminal: Terminal) -> None:
    """Checks everything that is cheap to check, then loads, compresses, draws and says what was written."""
    check_path(options.video)
    require()
    session = open_session(options, terminal)
    with terminal.waiting("decode") as wait:
        session.set_video(options.video, progress=wait)
    with terminal.waiting("drawing"):
        name = Path(options.video).name
        paths = visualize(session.traced(), *session.drawn, options.output, name=name)
    for path in paths.values():
        terminal.write(str(path))


def add_options(parser: Parser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="video file, or folder of .png/.jpg frames")
    drawn = "folder of what is drawn (default pictures)"
    parser.add_argument("--output", default="pictures", metavar="DIR", help=drawn)
    add_model_options(parser, answers=False)
