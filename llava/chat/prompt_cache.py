"""Keys and values of what the language model read last: a prompt that begins alike is read from where it differs."""

from dataclasses import dataclass, field
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from aot import AOTConfig, CompressedVideo
from aot.methods.in_llm import is_in_llm

KEPT = 2  # prompts: with all tokens and with fewer, as a comparison asks


@dataclass
class ReadPrompt:
    """A prompt that the language model has read, and the answer that it gave.

    ids: of both, as far as the cache holds them, a video in them as marks or placeholders. cache: transformers'.
    video: what was made of the video, None without reduction. rope_deltas: of a model that keeps them.
    """

    ids: list[int] = field(default_factory=list)
    cache: DynamicCache | None = None
    video: CompressedVideo | None = None
    rope_deltas: Any = None

    @property
    def places(self) -> int:
        """Tokens that the language model has read, the video's included."""
        return 0 if self.cache is None else int(self.cache.get_seq_length())


class PromptCache:
    """The last prompts of a conversation, one for each setting of the reduction, as many as `most`.

    config: of the language model. visual_token: the mark of a video in ids, or its placeholder.
    """

    def __init__(self, config: Any, visual_token: int, *, most: int = KEPT):
        self.config, self.visual_token, self.most = config, visual_token, most
        self._shown: list[Any] = []
        self._read: dict[AOTConfig | None, ReadPrompt] = {}

    def take(self, ids: list[int], shown: list[Any], settings: AOTConfig | None) -> ReadPrompt:
        """What may go on to read a prompt: the last one that shows the same under these settings, cut to their common
        beginning, or an empty one. It is given back by `keep`, unless reading fails.

        ids: of the prompt. shown: video and images, told apart by identity. The cut leaves a token of the prompt to be
        read, and the video in its place. No cache comes where the model's cannot be cut, nor for a method inside it,
        which leaves other places in each layer.
        """
        if len(shown) != len(self._shown) or any(a is not b for a, b in zip(shown, self._shown, strict=True)):
            self.clear()
            self._shown = shown
        before = self._read.pop(settings, ReadPrompt())
        common = 0
        for said, wanted in zip(before.ids, ids[:-1], strict=False):
            if said != wanted:
                break
            common += 1
        if before.cache is not None and self.visual_token not in before.ids[common:]:
            if surplus := len(before.ids) - common:  # text alone, a place of the cache each
                before.cache.crop(-surplus)
            before.ids = before.ids[:common]
            return before
        cache = DynamicCache(config=self.config)
        whole = bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
        return ReadPrompt(cache=cache if whole and self.most and not is_in_llm(settings) else None)

    def keep(self, read: ReadPrompt, ids: list[int], settings: AOTConfig | None) -> None:
        """Remembers what was read. ids: of the prompt and of the answer without its last token, which was not read."""
        if read.cache is None:
            return
        read.ids = ids
        self._read[settings] = read
        while len(self._read) > self.most:
            del self._read[next(iter(self._read))]

    def clear(self) -> None:
        """Forgets all prompts."""
        self._shown = []
        self._read.clear()
