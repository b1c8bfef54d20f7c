"""The front of a split deployment: an OpenAI-compatible server that encodes videos and lets a stock vLLM answer.

vllm serve MODEL --enable-prompt-embeds --limit-mm-per-prompt '{"image": 0, "video": 0}' --port 8001
python -m llava.serve.encoder_server --model-path CHECKPOINT --retention 0.1 --vllm http://localhost:8001
"""

import contextlib
import socket
import sys

from aot import AOTError
from aot_cli.main import entry
from aot_cli.parser import Parser
from llava.chat.options import add_model_options, load_session
from llava.serve.encoder import PromptEncoder
from llava.utils import needed_module

BACKLOG = 2048
CLOSING_SECONDS = 10  # for the requests under way, when the server is told to end


def make_server(app):
    """uvicorn's server of an application, with connections that end in time."""
    import uvicorn

    from llava.serve.guard import Connection

    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    return uvicorn.Server(config)


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("--vllm", required=True, metavar="URL", help="vLLM with --enable-prompt-embeds")
    add("--host", default="127.0.0.1", help="default: this machine alone")
    add("--port", type=int, default=8000, help="default: 8000")
    add("--api-key", metavar="KEY", help="what clients must bring; handed on to vLLM")
    add("--max-mb", type=float, default=256.0, metavar="MB", help="largest request (default %(default)g)")
    add("--max-requests", type=int, default=64, metavar="N", help="worked on at a time (default %(default)s)")
    add("--decoders", type=int, default=2, metavar="N", help="videos decoded at a time (default %(default)s)")
    add("--live-sessions", type=int, default=8, metavar="N", help="live sessions at a time (default %(default)s)")
    add("--live-idle", type=float, default=300.0, metavar="S", help="seconds one may be idle (default %(default)g)")
    add_model_options(parser)


def execute(options) -> int:
    """Serves until it is interrupted; returns the exit code."""
    try:
        app_module = needed_module("llava.serve.encoder_app", "The server", "serve")
        limits = app_module.Limits(
            megabytes=options.max_mb,
            requests=options.max_requests,
            decoders=options.decoders,
            live_sessions=options.live_sessions,
            live_idle=options.live_idle,
        )
        place = _bound(options.host, options.port)
        encoder = PromptEncoder(load_session(options))
        app = app_module.encoder_app(encoder, options.vllm, api_key=options.api_key, limits=limits)
        place.listen(BACKLOG)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"serving on http://{options.host}:{place.getsockname()[1]}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        make_server(app).run([place])
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet: the model is loaded before anybody may connect. AOTError when it is taken."""
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except (OSError, OverflowError) as error:
        raise AOTError(f"{host}, port {port}, cannot be listened on ({error}); choose another --port.") from error
    return place


main = entry("encoder")

if __name__ == "__main__":
    sys.exit(main())
