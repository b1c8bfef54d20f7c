"""Checkpoints of transformers' own video models: which they are, their parts, and the text of a prompt."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from llava.hf.video_processor import PROCESSORS, ProcessorError, Sampling, Tokens, VideoProcessor
from llava.model.builder import load_tokenizer
from llava.model.checkpoint import local_folder
from llava.model.loading import CheckpointError, read_json
from llava.video import Video

_QWEN = Tokens("<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
_TOKENS = {"internvl": Tokens("<IMG_CONTEXT>", "<img>", "</img>", "<IMG_CONTEXT>")}
# transformers' image processors that work on Pillow, without torchvision
_PILLOW = {"backend": "pil"} if transformers.__version__ >= "5" else {"use_fast": False}
_SETTINGS = ("video_preprocessor_config.json", "preprocessor_config.json")  # the first that is there


@dataclass
class Checkpoint:
    """model: transformers' own. tokenizer, template: of the prompt. processor: of its videos. tokens: around them.

    folder: of its files.
    """

    folder: Path
    model: Any
    tokenizer: Any
    template: str
    processor: VideoProcessor
    tokens: Tokens

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The template's text of messages, {"role", "content": [...]}.

        A part of the content is {"type": "video"}, {"type": "image"} or {"type": "text", "text"}.
        Names of special tokens in what was said are text and no tokens.
        """
        said = [{**message, "content": [self._plain(part) for part in message["content"]]} for message in messages]
        return self.tokenizer.apply_chat_template(
            said, chat_template=self.template, tokenize=False, add_generation_prompt=True
        )

    def _plain(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        if part["type"] != "text":
            return part
        text = part["text"]
        for name in {"<video>", *self.tokenizer.get_added_vocab()}:
            text = text.replace(name, f"{name[:1]} {name[1:]}")
        return {**part, "text": text}

    @cached_property
    def _image_processor(self) -> Any:
        return transformers.AutoImageProcessor.from_pretrained(self.folder, **_PILLOW)

    def image(self, picture: Image.Image, **options: Any) -> dict[str, torch.Tensor]:
        """What the model is given of an image. options: of transformers' image processor, as for one call."""
        found = self._image_processor(images=[picture], return_tensors="pt", **options)
        return {name: found[name] for name in ("pixel_values", "image_grid_thw") if name in found}

    def inputs(
        self,
        prompt: str,
        videos: Sequence[Video],
        pixels: Sequence[Mapping[str, Any]],
        images: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """What the model is given: ids with a placeholder for each token of a video or an image.

        pixels: of each video. images: what `image` made of each. Raises CheckpointError when the prompt does not mark
        as many of them.
        """
        # 1. text and inputs of each video and image, by the mark that the template wrote for it
        tokens, processor = self.tokens, self.processor
        around = {"video": tokens.start + tokens.video + tokens.end, "image": tokens.start + tokens.image + tokens.end}
        video_mark = "<video>" if "<video>" in prompt else around["video"]
        image_mark = around["image"] if around["image"] in prompt else tokens.image
        shown = {
            video_mark: [(processor.text(video, one, tokens), one) for video, one in zip(videos, pixels, strict=True)],
            image_mark: [(processor.image_text(one, tokens), one) for one in images],
        }
        parts = re.split(f"({'|'.join(map(re.escape, shown))})", prompt)  # text, mark, text, ..., text
        for mark, given in shown.items():
            if parts[1::2].count(mark) != len(given):
                raise CheckpointError(
                    f"The chat template writes {parts[1::2].count(mark)} marks {mark!r} for {len(given)} videos or "
                    "images; take the template that the model was published with."
                )
        # 2. each in its place, and their inputs in the order of the prompt
        following = {mark: iter(given) for mark, given in shown.items()}
        ordered = [next(following[mark]) for mark in parts[1::2]]
        parts[1::2] = [text for text, _ in ordered]
        prompt, joined = "".join(parts), processor.joined([one for _, one in ordered]) if ordered else {}
        bos = self.tokenizer.bos_token
        special = bos is None or not prompt.startswith(bos)
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=special)["input_ids"]
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **joined}
        config = self.model.config
        if "mm_token_type_ids" in inspect.signature(type(self.model).forward).parameters:
            types = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
            found["mm_token_type_ids"] = types
        place = self.model.device
        return {name: value.to(place) if isinstance(value, torch.Tensor) else value for name, value in found.items()}


def load_checkpoint(
    path: str, settings: Mapping[str, Any], *, device: Any, dtype: str, attention: str, sampling: Sampling
) -> Checkpoint:
    """The parts of a checkpoint of a family in `PROCESSORS`. settings: its config.json.

    Raises CheckpointError or ProcessorError (both ValueError) for one that cannot be used.
    """
    kind = settings["model_type"]
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no {kind}; install a release that has it, such as 5.24."
        )
    folder = local_folder(path)
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, trust_remote_code=False
    )
    return checkpoint_of(model.to(device).eval(), folder, sampling)


def checkpoint_of(model: Any, folder: Path, sampling: Sampling, **settings: Any) -> Checkpoint:
    """The other parts of the checkpoint that a model was loaded from. settings: of its video processor, changed."""
    # of the class: up to 4.57.5 a Qwen2.5-VL's configuration itself names the kind of its text model
    kind, tokenizer = type(model.config).model_type, load_tokenizer(folder)
    processor = PROCESSORS[kind]({**_video_settings(folder), **settings}, model.config, sampling)
    usual = _QWEN if kind.startswith("qwen") else _TOKENS.get(kind, Tokens("<video>", image="<image>"))
    image = tokenizer.convert_ids_to_tokens(model.config.image_token_id) or usual.image
    of_video = model.config.image_token_id if kind == "internvl" else model.config.video_token_id
    tokens = replace(usual, image=image, video=tokenizer.convert_ids_to_tokens(of_video) or usual.video)
    return Checkpoint(folder, model, tokenizer, _template(folder, tokenizer), processor, tokens)


def _video_settings(folder: Path) -> dict[str, Any]:
    """Of the video processor, from wherever this release or an earlier one wrote them."""
    together = folder / "processor_config.json"
    if together.is_file():
        found = read_json(together)
        if isinstance(found.get("video_processor"), dict):
            return found["video_processor"]
    for name in _SETTINGS:
        if (folder / name).is_file():
            return read_json(folder / name)
    raise ProcessorError(f"{folder} has no {_SETTINGS[0]}; download the whole checkpoint.")


def _template(folder: Path, tokenizer: Any) -> str:
    """The chat template of the processor, else of the tokenizer."""
    written = folder / "chat_template.jinja"
    if written.is_file():
        return written.read_text(encoding="utf-8")
    earlier = folder / "chat_template.json"
    template = read_json(earlier).get("chat_template") if earlier.is_file() else tokenizer.chat_template
    if not isinstance(template, str):
        raise CheckpointError(f"{folder} has no chat template; take a checkpoint that was made to be talked to.")
    return template
