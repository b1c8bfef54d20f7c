"""How a model is asked: the frames and the questions that its family is used to, and the text of a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token


@dataclass(frozen=True)
class Sampling:
    """num_frames, fps and by_change as in `load_video`; tell_times puts the time sentence before the first question."""

    num_frames: int
    fps: float | None
    tell_times: bool
    by_change: bool = False


@dataclass(frozen=True)
class PromptStyle:
    """suffix follows a one-line question; single_turn asks every question without the turns before it.

    note: what a person should know before believing an answer, or None.
    """

    suffix: str = ""
    single_turn: bool = False
    note: str | None = None

    def format(self, question: str) -> str:
        """The question as the model is used to it; prompts that are no plain question stay as they are."""
        question = question.strip()
        return question + self.suffix if question.endswith("?") and "\n" not in question else question


def default_sampling(config) -> Sampling:
    """Sampling by a model's configuration.

    A checkpoint may state `mm_video_frames`; otherwise newlines after every grid row mark LLaVA-Video (one
    frame a second, at most 64, times told) and everything else is sampled as LLaVA-OneVision (32 frames). What
    LLaVA-NeXT's trainer wrote down wins: `add_time_instruction` says whether times are told, and a true
    `force_sample` that all frames are spread evenly.
    """
    stated = getattr(config, "mm_video_frames", None)
    video = not stated and getattr(config, "mm_newline_position", None) == "grid"
    tell_times = getattr(config, "add_time_instruction", None)
    return Sampling(
        num_frames=int(stated) if stated else 64 if video else 32,
        fps=1.0 if video and not getattr(config, "force_sample", None) else None,
        tell_times=video if tell_times is None else bool(tell_times),
    )


def default_prompt_style(config) -> PromptStyle:
    """Prompt style by a model's configuration: `chat_suffix`, `chat_single_turn` and `chat_note`, all optional.

    They are for small models that know one way of being asked and one world; large models need none.
    """
    note = str(getattr(config, "chat_note", None) or "")
    note = "".join(letter for letter in note if letter.isprintable())  # one line that steers no terminal
    suffix = getattr(config, "chat_suffix", None) or ""
    return PromptStyle(suffix, bool(getattr(config, "chat_single_turn", False)), note or None)


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
