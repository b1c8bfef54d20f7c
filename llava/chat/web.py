"""The chat in a browser: `aot web`, then open the address it prints."""

import ipaddress
import os
import signal

from aot import AOTError
from aot.visualize import require
from aot_cli.parser import Parser
from llava.chat.options import EXPECTED, add_model_options, load_session, one_sentence
from llava.chat.terminal import Terminal
from llava.chat.web_worker import Limits, Worker
from llava.utils import scratch_folder


def execute(options) -> int:
    """Serves the page until Ctrl-C; returns the exit code: 0, or 1 after one sentence on standard error."""
    terminal = Terminal()
    try:
        run(options, terminal)
    except EXPECTED as error:
        terminal.error(one_sentence(error))
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def run(options, terminal: Terminal) -> None:
    """Checks what is cheap to check, loads the model once, and serves."""
    limits = Limits(
        megabytes=options.max_mb,
        video_seconds=options.max_video_seconds,
        answer_seconds=options.max_answer_seconds,
    )
    page = _page_module()
    require()
    with terminal.waiting("loading the model"):
        session = load_session(options)
    worker = Worker(session, limits)
    start = (session.compression and session.compression.retention) or 1.0
    if not _is_local(options.host):
        terminal.note(f"{options.host} can be reached from other machines, and anyone there can use the model.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, with the uploads removed
    with scratch_folder("aot-web") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio puts uploads there
        blocks = page.build_page(worker, retention=start, note=session.prompt_style.note)
        address = page.serve(blocks, worker, folder, host=options.host, port=options.port)
        terminal.write(f"open {address} (Ctrl-C ends)")
        blocks.block_thread()


def _page_module():
    """The module that knows Gradio; AOTError when it is not installed."""
    try:
        from llava.chat import web_page
    except ImportError as error:
        raise AOTError(f"The page needs {error.name}; run pip install 'aot-video[web]'.") from error
    return web_page


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def add_options(parser: Parser) -> None:
    add = parser.add_argument_group("page").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    add("--port", type=int, default=7860, help="port (default 7860)")
    add("--max-mb", type=float, default=Limits.megabytes, help="largest upload in MB (default %(default)g)")
    add(
        "--max-video-seconds",
        type=float,
        default=Limits.video_seconds,
        metavar="S",
        help="longest video (default %(default)g)",
    )
    add(
        "--max-answer-seconds",
        type=float,
        default=Limits.answer_seconds,
        metavar="S",
        help="longest time for one answer (default %(default)g)",
    )
    add_model_options(parser)
