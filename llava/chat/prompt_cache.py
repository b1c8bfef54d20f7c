"""Keys and values of what the language model read last: a prompt that begins alike is read from where it differs."""

from dataclasses import dataclass, field
from os.path import commonprefix
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
    video: what was made of the video, None without reduction. begun: how many of its tokens the cache holds, where its
    mark is not among the ids. rope_deltas: of a model that keeps them.
    """

    ids: list[int] = field(default_factory=list)
    cache: DynamicCache | None = None
    video: CompressedVideo | None = None
    begun: int = 0
    rope_deltas: Any = None

    @property
    def places(self) -> int:
        """Tokens that the language model has read, the video's included."""
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    def cut(self, ids: int, places: int) -> "ReadPrompt":
        """The same as it was after its first ids, when the cache held so many places."""
        self.ids = self.ids[:ids]
        if surplus := self.places - places:
            self.cache.crop(-surplus)
        return self


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
        read, and the video in its place. Where a video of kept tokens goes on, the cut is at the first of them that is
        another now. No cache comes where the model's cannot be cut, nor for a method inside it, which leaves other
        places in each layer.
        """
        before = self._read.pop(settings, ReadPrompt())
        same = len(shown) == len(self._shown) and all(a is b for a, b in zip(shown, self._shown, strict=True))
        if not same:
            self.clear()
            self._shown = shown
        common = len(commonprefix([before.ids, ids[:-1]]))
        if before.cache is not None and self.visual_token not in before.ids[common:]:
            if same:  # behind it is text alone, a place of the cache each
                return before.cut(common, before.places - len(before.ids) + common)
            if len(shown) == 1 and shown[0].streamed and before.video is not None:
                mark = ids.index(self.visual_token)
                held, wanted = before.video.tokens, shown[0].features.tokens[:-1]
                shorter = min(len(held), len(wanted))
                others = (held[:shorter] != wanted[:shorter]).any(dim=1)
                before.begun = int((others.cumsum(0) == 0).sum())
                return before.cut(mark, mark + before.begun)
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
