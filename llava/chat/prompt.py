"""The text of a prompt: messages in a conversation's format, with a mark where each video goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from llava.chat.model_defaults import PromptStyle
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token


@dataclass(frozen=True)
class Message:
    """role: "system", "user" or "assistant". videos: a key for each video that the message shows."""

    role: str
    text: str
    videos: tuple[str, ...] = ()


def prompt_ids(
    messages: Sequence[Message], tokenizer, *, template: str, style: PromptStyle, times: Mapping[str, str]
) -> torch.Tensor:
    """(L,) int64 ids of the messages and the open answer, with IMAGE_TOKEN_INDEX in the place of each video.

    template: a key of `conv_templates`. times: the sentence about the frames' times of each video that has one.
    """
    conversation = conv_templates[template].copy()
    for message in messages:
        # a tag in what was said is text, no place for a video
        text = message.text.replace(DEFAULT_IMAGE_TOKEN, "< image >")
        if message.role == "system":
            conversation.system = f"<|im_start|>system\n{text}"
            continue
        if message.role == "user":
            marks = [DEFAULT_IMAGE_TOKEN] * len(message.videos)
            sentences = [times[key] for key in message.videos if times.get(key)]
            text = "\n".join([*marks, *sentences, style.format(text)])
        conversation.append_message(conversation.roles[message.role == "assistant"], text)
    conversation.append_message(conversation.roles[1], None)
    return tokenizer_image_token(conversation.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
