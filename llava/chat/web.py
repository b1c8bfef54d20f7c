"""The chat in a browser: `aot web`, then open the address it prints."""

import ipaddress
import os
import signal
from contextlib import suppress

from aot import AOTConfig
from aot.visualize import require
from aot_cli.parser import Parser
from llava.chat.options import add_model_options, command, open_session
from llava.chat.terminal import Terminal
from llava.chat.web_worker import Limits, Worker
from llava.utils import needed_module, scratch_folder


@command
def execute(options, terminal: Terminal) -> None:
    """Checks what is cheap to check, loads the model once, and serves the page until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        seconds = {"video_seconds": options.max_video_seconds, "answer_seconds": options.max_answer_seconds}
        limits = Limits(megabytes=options.max_mb, **seconds)
        page = needed_module("llava.chat.web_page", "The page", "web")
        require()
        session = open_session(options, terminal, quiet=True)  # the page says what to know about the model
        config = session.compression or AOTConfig(retention=1.0)
        if not _is_local(options.host):
            terminal.note(f"{options.host} can be reached from other machines, and anyone there can use the model.")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, with the uploads removed
        with scratch_folder("aot-web") as folder:
            worker = Worker(session, limits, folder=folder)
            os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio puts uploads there
            blocks = page.build_page(worker, config, note=session.prompt_style.note)
            address = page.serve(blocks, worker, folder, host=options.host, port=options.port)
            terminal.write(f"open {address} (Ctrl-C ends)")
            blocks.block_thread()


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
    seconds = {"type": float, "metavar": "S"}
    add("--max-video-seconds", default=Limits.video_seconds, **seconds, help="longest video (default %(default)g)")
    answer = "longest time for one answer (default %(default)g)"
    add("--max-answer-seconds", default=Limits.answer_seconds, **seconds, help=answer)
    add_model_options(parser)
