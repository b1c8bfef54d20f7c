"""Prompt templates: a conversation is a system line and turns, written out in a separator style."""

import copy
from dataclasses import dataclass, field
from enum import Enum, auto


class SeparatorStyle(Enum):
    """How turns are written out. TWO has no template here; callers compare against it."""

    TWO = auto()
    PLAIN = auto()
    CHATML = auto()


@dataclass
class Conversation:
    """A prompt in the making.

    ``messages`` holds ``[role, text]`` pairs; a text of None leaves the turn open for the model to answer.
    ``offset`` counts leading example turns that belong to the template.
    """

    system: str
    roles: tuple[str, str]
    messages: list[list[str | None]] = field(default_factory=list)
    offset: int = 0
    sep_style: SeparatorStyle = SeparatorStyle.CHATML
    sep: str = "<|im_end|>"
    sep2: str | None = None
    version: str = "Unknown"

    def append_message(self, role: str, message: str | None) -> None:
        self.messages.append([role, message])

    def get_prompt(self) -> str:
        """The prompt text; raises ValueError for a separator style without templates."""
        if self.sep_style is SeparatorStyle.CHATML:
            turns = [f"{self.system}{self.sep}\n"] if self.system else []
            for role, text in self.messages:
                turns.append(f"{role}\n" if text is None else f"{role}\n{text}{self.sep}\n")
            return "".join(turns)
        if self.sep_style is SeparatorStyle.PLAIN:
            ends = (self.sep, self.sep if self.sep2 is None else self.sep2)
            return self.system + "".join(
                text + ends[i % 2] for i, (_, text) in enumerate(self.messages) if text is not None
            )
        raise ValueError(f"No prompt format for {self.sep_style}; use CHATML or PLAIN.")

    def copy(self) -> "Conversation":
        return copy.deepcopy(self)


conv_qwen = Conversation(
    system="<|im_start|>system\nYou are a helpful assistant.",
    roles=("<|im_start|>user", "<|im_start|>assistant"),
    version="qwen",
)
conv_plain = Conversation(system="", roles=("", ""), sep_style=SeparatorStyle.PLAIN, sep="\n", version="plain")

conv_templates = {"qwen_1_5": conv_qwen, "qwen_2": conv_qwen, "plain": conv_plain}
default_conversation = conv_qwen
