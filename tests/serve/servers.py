"""The encoder's server in a thread of this process."""

import socket
import threading
import time
from contextlib import contextmanager

from llava.serve.encoder_app import encoder_app
from llava.serve.encoder_server import make_server


@contextmanager
def serving(encoder, vllm, **options):
    """Address of a server; options: of `encoder_app`."""
    server = make_server(encoder_app(encoder, vllm, **options))
    with socket.create_server(("127.0.0.1", 0)) as place:
        thread = threading.Thread(target=server.run, args=([place],))
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
