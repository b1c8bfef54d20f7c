"""Checkpoints of transformers' own video models: which they are, their parts, and the text of a prompt."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from llava.hf.video_processor import PROCESSORS, ProcessorError, Sampling, Tokens, VideoProcessor
from llava.model.builder import load_tokenizer
from llava.model.checkpoint import local_folder
from llava.model.loading import CheckpointError
from llava.video import Video

_CLASSES = {
    "llava_next_video": "LlavaNextVideo", "llava_onevision": "LlavaOnevision", "internvl": "InternVL",
    "qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL", "qwen3_vl_moe": "Qwen3VLMoe",
    "qwen3_5": "Qwen3_5", "qwen3_5_moe": "Qwen3_5Moe",
}  # fmt: skip
_QWEN = Tokens("<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_TOKENS = {"internvl": Tokens("<IMG_CONTEXT>", "<img>", "</img>")}
_SETTINGS = ("video_preprocessor_config.json", "preprocessor_config.json")  # the first that is there


def is_transformers_model(settings: Mapping[str, Any]) -> bool:
    """Is a config.json of one of these families, in transformers' own layout?"""
    return settings.get("model_type") in _CLASSES


@dataclass
class Checkpoint:
    """model: transformers' own. tokenizer, template: of the prompt. processor: of its videos. tokens: around them."""

    model: Any
    tokenizer: Any
    template: str
    processor: VideoProcessor
    tokens: Tokens

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The template's text of messages, {"role", "content": [{"type": "video"} or {"type": "text", "text"}]}.

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

    def inputs(self, prompt: str, videos: Sequence[Video], pixels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the model is given: ids with a placeholder for each token of a video. pixels: of each."""
        tokens = self.tokens
        mark = "<video>" if "<video>" in prompt else tokens.start + tokens.video + tokens.end
        texts = prompt.split(mark)
        if len(texts) != len(videos) + 1:
            raise CheckpointError(
                f"The chat template writes {len(texts) - 1} marks {mark!r} for {len(videos)} videos; take the template "
                "that the model was published with."
            )
        shown = [self.processor.text(video, one, tokens) for video, one in zip(videos, pixels, strict=True)]
        prompt = "".join(part for pair in zip(texts, [*shown, ""], strict=True) for part in pair)
        bos = self.tokenizer.bos_token
        special = bos is None or not prompt.startswith(bos)
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=special)["input_ids"]
        joined = self.processor.joined(pixels) if pixels else {}
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
    """The parts of a checkpoint of `is_transformers_model`. settings: its config.json.

    Raises CheckpointError or ProcessorError (both ValueError) for one that cannot be used.
    """
    kind = settings["model_type"]
    name = f"{_CLASSES[kind]}ForConditionalGeneration"
    model_class = getattr(transformers, name, None)
    if model_class is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no {name}; install a release that has it, such as 5.24."
        )
    folder = local_folder(path)
    model = model_class.from_pretrained(folder, dtype=dtype, attn_implementation=attention).to(device).eval()
    return checkpoint_of(model, folder, sampling)


def checkpoint_of(model: Any, folder: Path, sampling: Sampling, **settings: Any) -> Checkpoint:
    """The other parts of the checkpoint that a model was loaded from. settings: of its video processor, changed."""
    kind, tokenizer = model.config.model_type, load_tokenizer(folder)
    processor = PROCESSORS[kind]({**_video_settings(folder), **settings}, model.config, sampling)
    return Checkpoint(model, tokenizer, _template(folder, tokenizer), processor, _tokens(kind, model, tokenizer))


def _tokens(kind: str, model: Any, tokenizer: Any) -> Tokens:
    tokens = _QWEN if kind.startswith("qwen") else _TOKENS.get(kind, Tokens("<video>"))
    wanted = model.config.image_token_id if kind == "internvl" else model.config.video_token_id
    named = tokenizer.convert_ids_to_tokens(wanted)
    return tokens if named is None else Tokens(named, tokens.start, tokens.end)


def _video_settings(folder: Path) -> dict[str, Any]:
    """Of the video processor, from wherever this release or an earlier one wrote them."""
    together = folder / "processor_config.json"
    if together.is_file():
        found = _json(together)
        if isinstance(found.get("video_processor"), dict):
            return found["video_processor"]
    for name in _SETTINGS:
        if (folder / name).is_file():
            return _json(folder / name)
    raise ProcessorError(f"{folder} has no {_SETTINGS[0]}; download the whole checkpoint.")


def _template(folder: Path, tokenizer: Any) -> str:
    """The chat template of the processor, else of the tokenizer."""
    written = folder / "chat_template.jinja"
    if written.is_file():
        return written.read_text(encoding="utf-8")
    earlier = folder / "chat_template.json"
    template = _json(earlier).get("chat_template") if earlier.is_file() else tokenizer.chat_template
    if not isinstance(template, str):
        raise CheckpointError(f"{folder} has no chat template; take a checkpoint that was made to be talked to.")
    return template


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); download it again.") from error
