"""What a question shows: videos and images in the order of its task, and how several are asked about at once."""

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import SeparatorStyle, conv_templates
from llava.mm_utils import KeywordsStoppingCriteria, tokenizer_image_token

FOLDER = "frames-in:"  # put before a folder of frames, which the stock wrappers would not take for one video
PICTURES = (".jpg", ".jpeg", ".png", ".bmp")

Visual = str | Image.Image  # the path of a video or of a folder of frames, or an image


class VisualError(ValueError):
    """A question shows what cannot be asked about; the text is one sentence."""


def listed(found: Any) -> list[Visual]:
    """The visuals that a task's doc_to_visual returned, in order; paths of pictures become images.

    Raises VisualError for what is neither a path nor an image.
    """
    if found is None:
        return []
    if isinstance(found, (str, os.PathLike, Image.Image)):
        found = [found]
    if not isinstance(found, (list, tuple)):
        raise VisualError(f"The task shows a {type(found).__name__}; it must return a list of paths and images.")
    return [_visual(number, one) for number, one in enumerate(found, 1)]


def _visual(number: int, one: Any) -> Visual:
    if isinstance(one, (str, os.PathLike)):
        path = os.fspath(one)
        if not path.lower().endswith(PICTURES) or os.path.isdir(path):
            return path
        with Image.open(path) as picture:
            return _visual(number, picture)
    if not isinstance(one, Image.Image):
        raise VisualError(f"Visual {number} is a {type(one).__name__}, which is neither a path nor an image.")
    if getattr(one, "is_animated", False) and one.format != "MPO":
        raise VisualError(f"Visual {number} is an animation; let the task return its path, so that it is a video.")
    return one.convert("RGB")


def marked(prompt: str, count: int) -> str:
    """The prompt with one <image> mark for each of its visuals: where it has them itself, or before the text.

    Raises VisualError when it has another number of marks.
    """
    marks = prompt.count(DEFAULT_IMAGE_TOKEN)
    if marks not in (0, count):
        raise VisualError(f"The prompt has {marks} {DEFAULT_IMAGE_TOKEN} marks and {count} visuals.")
    return prompt if marks else " ".join([DEFAULT_IMAGE_TOKEN] * count) + "\n" + prompt


def generate(
    model, tokenizer, prompt: str, pixels: Sequence[torch.Tensor], kinds: list[str], *, template: str, **generation
) -> tuple[str, int]:
    """(reply, text tokens of the prompt) about several visuals.

    prompt: with a mark for each visual. pixels: (F, 3, S, S) of a video, (3, S, S) of an image. kinds: "video" or
    "image" of each. template: of the conversation. generation: arguments of transformers' generate.
    """
    conversation = copy.deepcopy(conv_templates[template])
    conversation.append_message(conversation.roles[0], prompt)
    conversation.append_message(conversation.roles[1], None)
    ids = tokenizer_image_token(conversation.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
    ids = ids[None].to(model.device)
    stop = conversation.sep2 if conversation.sep_style == SeparatorStyle.TWO else conversation.sep
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids, dtype=torch.bool),
            images=list(pixels),
            modalities=kinds,
            stopping_criteria=[KeywordsStoppingCriteria([stop], tokenizer, ids)],
            **generation,
        )
    return tokenizer.batch_decode(made, skip_special_tokens=True)[0].strip(), int((ids != IMAGE_TOKEN_INDEX).sum())
