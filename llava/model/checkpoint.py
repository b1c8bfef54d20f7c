"""Where a checkpoint lies, and whether its config.json is that of a model which can be loaded."""

import os
import re
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from aot import AOTError
from llava.model.fields import check_sizes
from llava.model.folder import check_folder
from llava.model.language_model.configuration_llava_qwen import LlavaQwenConfig
from llava.model.loading import CheckpointError, read_json, reason_of

ARCHITECTURE = "LlavaQwenForCausalLM"


def read_settings(model_path: str | os.PathLike, **hub) -> dict:
    """config.json of a folder or of a hub name as a dict.

    Raises CheckpointError when there is none to read, and for a folder that is something else than a whole
    checkpoint (`check_folder`). hub: revision, cache_dir, token, local_files_only.
    """
    path = Path(model_path)
    if path.is_dir():
        check_folder(path)
        return read_json(path / "config.json")
    if path.is_file():
        raise CheckpointError(f"{path} is a file and no folder; give the folder of a complete checkpoint.")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(model_path)) is None:
        raise CheckpointError(f"There is no checkpoint folder {path}; give a folder or a hub name.")
    return read_json(_fetched(str(model_path), ["config.json"], **hub) / "config.json")


def local_folder(model_path: str | os.PathLike, **hub) -> Path:
    """The folder itself, or that of a hub name's files, fetched where they are not here yet; never pickled ones.

    Raises CheckpointError when they cannot be had or are no whole checkpoint.
    """
    if Path(model_path).is_dir():
        return Path(model_path)
    folder = _fetched(str(model_path), ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"], **hub)
    check_folder(folder)
    return folder


def _fetched(name: str, files: list[str], **hub) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=files, **hub))
    except OSError as error:
        raise CheckpointError(
            f"{name} is no folder here and cannot be had from the hub; check the name, the connection and the space on "
            "the disk."
        ) from error


def model_config(model_path: str | os.PathLike, settings: dict, *, quantised: bool = False) -> LlavaQwenConfig:
    """The model configuration of a checkpoint's settings, whatever the checkpoint is called.

    quantised: take one whose `quantization_config` transformers reads.
    Raises CheckpointError for transformers' own layout, for any model that is not SigLIP + Qwen2, for other quantised
    weights and for sizes that no model has; AOTError for a token reduction that makes no sense.
    """
    _check_architecture(model_path, settings)
    stated = settings.get("quantization_config") or settings.get("compression_config")
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    if stated and not (quantised and method and "quantization_config" in settings):
        raise CheckpointError(
            f"{model_path} is quantised ({method or 'quantization_config'} in config.json), which is not loaded; use "
            "the original checkpoint in float16 or bfloat16."
        )
    check_sizes(settings)
    # some published files say "llava", which is another model to transformers
    try:
        return LlavaQwenConfig.from_dict({**settings, "model_type": LlavaQwenConfig.model_type})
    except AOTError:  # of `aot`, and says what to do
        raise
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, StrictDataclassError) as error:
        raise CheckpointError(
            f"{model_path}: config.json holds a value that does not fit ({reason_of(error)}); correct it, or download "
            "it again."
        ) from error


def _check_architecture(model_path: str | os.PathLike, settings: dict) -> None:
    kind = settings.get("model_type")
    architectures = settings.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise CheckpointError(f"{model_path}: architectures in config.json is no list of names; correct it.")
    described = architectures[0] if architectures else f"model_type {kind!r}"
    if "text_config" in settings or "vision_config" in settings:
        raise CheckpointError(
            f"{model_path} is in the layout of transformers ({described}); load it there and call aot.apply on the "
            "model, or use the original LLaVA-NeXT checkpoint, such as lmms-lab/llava-onevision-qwen2-7b-ov, which "
            "`aot convert` writes in that layout."
        )
    if ARCHITECTURE not in architectures and (architectures or kind != LlavaQwenConfig.model_type):
        raise CheckpointError(
            f"{model_path} is a {described}, which this model cannot load; use a SigLIP + Qwen2 checkpoint "
            f"in LLaVA-NeXT's layout ({ARCHITECTURE})."
        )
