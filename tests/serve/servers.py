"""The encoder's server in a thread of this process, and a language model's that answers from embeddings."""

import base64
import io
import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

import torch

from llava.serve.encoder_app import encoder_app
from llava.serve.encoder_server import make_server
from tests.replying import Replying


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


class Answering(Replying):
    """/v1/completions of a model that is given embeddings."""

    def do_GET(self):
        self.reply(json.dumps({"data": [{"id": "tiny"}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["max_tokens"] > 500:
            self.reply(json.dumps({"error": {"message": "That is too long."}}).encode(), status=400)
            return
        embeds = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        text, new = self.server.answer(embeds)
        usage = {"prompt_tokens": len(embeds), "completion_tokens": new}
        if not body.get("stream"):
            self.reply(json.dumps({"choices": [{"index": 0, "text": text}], "usage": usage}).encode())
            return
        lines = [{"choices": [{"index": 0, "text": letter}]} for letter in text] + [{"choices": [], "usage": usage}]
        done = [] if body.get("user") == "broken" else ["[DONE]"]
        self.reply("".join(f"data: {line}\n\n" for line in [*map(json.dumps, lines), *done]).encode())


@contextmanager
def language_model(tokenizer, model, *, new_tokens):
    """Address of a server that answers from embeddings with the whole model, greedily."""

    @torch.inference_mode()
    def answer(embeds):
        embeds, tokens = embeds[None], []
        while len(tokens) < new_tokens and tokens[-1:] != [tokenizer.eos_token_id]:
            tokens.append(int(model(inputs_embeds=embeds).logits[0, -1].argmax()))
            new = model.get_model().embed_tokens(torch.tensor([[tokens[-1]]]))
            embeds = torch.cat([embeds, new], dim=1)
        return tokenizer.decode(tokens), len(tokens)

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.answer = answer
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
