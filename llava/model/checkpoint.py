"""Reading a checkpoint's config.json and deciding whether this model can load it."""

import json
import os
import re
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from llava.model.language_model.configuration_llava_qwen import LlavaQwenConfig
from llava.model.loading import CheckpointError

ARCHITECTURE = "LlavaQwenForCausalLM"


def read_settings(model_path: str | os.PathLike, **hub) -> dict:
    """config.json of a folder or of a hub name as a dict; CheckpointError when there is none to read."""
    path = str(model_path)
    if not Path(path).is_dir():
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) is None or Path(path).exists():
            raise CheckpointError(f"There is no checkpoint folder {path}; give a folder or a hub name.")
        return _hub_settings(path, **hub)
    file = Path(path, "config.json")
    if not file.is_file():
        raise CheckpointError(f"{path} holds no config.json; give the folder of a complete checkpoint.")
    return _parse(file)


def _hub_settings(name: str, **hub) -> dict:
    from transformers.utils import cached_file

    try:
        return _parse(Path(cached_file(name, "config.json", **hub)))
    except OSError as error:
        raise CheckpointError(
            f"{name} is no folder here and cannot be had from the hub; check the name and the connection."
        ) from error


def _parse(file: Path) -> dict:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); download it again.") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file} holds no settings; download it again.")
    return settings


def model_config(model_path: str | os.PathLike, settings: dict) -> LlavaQwenConfig:
    """The model configuration of a checkpoint's settings, whatever the checkpoint is called.

    Raises CheckpointError for transformers' own layout and for any model that is not SigLIP + Qwen2.
    """
    kind = settings.get("model_type")
    architectures = settings.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise CheckpointError(f"{model_path}: architectures in config.json is no list of names; correct it.")
    described = architectures[0] if architectures else f"model_type {kind!r}"
    if "text_config" in settings or "vision_config" in settings:
        raise CheckpointError(
            f"{model_path} is in the layout of transformers ({described}); use the original LLaVA-NeXT "
            "checkpoint, such as lmms-lab/llava-onevision-qwen2-7b-ov."
        )
    if ARCHITECTURE not in architectures and (architectures or kind != LlavaQwenConfig.model_type):
        raise CheckpointError(
            f"{model_path} is a {described}, which this model cannot load; use a SigLIP + Qwen2 checkpoint "
            f"in LLaVA-NeXT's layout ({ARCHITECTURE})."
        )
    # some published files say "llava", which is another model to transformers
    try:
        return LlavaQwenConfig.from_dict({**settings, "model_type": LlavaQwenConfig.model_type})
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{model_path}: config.json holds a value that does not fit ({reason}); correct it, or download it again."
        ) from error
