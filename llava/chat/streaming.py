"""Text while it is generated, and the moment the first token came."""

import time
from collections.abc import Callable

import torch
from transformers.generation.streamers import BaseStreamer

# a model's text must not steer the terminal: control characters go, line breaks and tabs stay
CONTROL = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])
for kept in (ord("\n"), ord("\t")):
    del CONTROL[kept]


def printable(text: str) -> str:
    """The text without control characters."""
    return text.translate(CONTROL)


class TextStream(BaseStreamer):
    """Passes on the text of the new tokens as soon as it is certain; `first` is when the first one came."""

    def __init__(self, tokenizer, on_text: Callable[[str], None] | None = None):
        self.tokenizer, self.on_text = tokenizer, on_text
        self.tokens: list[int] = []
        self.shown = ""
        self.first: float | None = None
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt first (ignored), then each new token, (1,) or (1, 1)."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        if self.first is None:
            self.first = time.perf_counter()
        self.tokens.extend(value.flatten().tolist())
        text = self.text()
        if not text.endswith("\ufffd"):  # half of a character of several bytes
            self._show(text)

    def end(self) -> None:
        """Passes on what was held back."""
        self._show(self.text())

    def text(self) -> str:
        """The answer so far."""
        return printable(self.tokenizer.decode(self.tokens, skip_special_tokens=True)).lstrip()

    def _show(self, text: str) -> None:
        new = text[len(self.shown) :]
        if new:
            self.shown = text
            if self.on_text:
                self.on_text(new)
