"""Where a checkpoint lies, what its folder is by its files, and whether config.json is that of a model to be loaded.

Of the weights only names and shapes are read here.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import SiglipVisionConfig

from aot import AOTError
from llava.model.language_model.configuration_llava_qwen import SO400M_384, SO400M_NAME, LlavaQwenConfig, check_sizes
from llava.model.loading import CheckpointError, layer_count, read_json, reason_of

ARCHITECTURE = "LlavaQwenForCausalLM"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = re.compile(r"adapter_(config|model)\..*|non_lora_trainables\.bin")
_POINTER = b"version https://git-lfs"
TOWER = "model.vision_tower.vision_tower.vision_model."

# what a folder without whole weights may be instead, first match wins: a name in it -> what that is, and what to do
_KINDS = {
    r"model-\d+-of-\d+\.safetensors": f"holds parts of the weights ({{found}}) without their index; add {INDEX}",
    r".*\.safetensors": f"holds weights under another name ({{found}}); name a single file {WEIGHTS}",
    r"checkpoint-\d+": "is the folder of a training run without a model; give one of its checkpoints, such as {last}",
    r"mm_projector\.(bin|pt)": "holds a projector alone ({found}); give the whole checkpoint that was trained with it",
    r"global_step\d+|zero_to_fp32\.py|.*_model_states\.pt|.*\.distcp|pytorch_model_fsdp.*": (
        "is the state of a training run in shards ({found}); gather them first, with DeepSpeed by "
        "`python zero_to_fp32.py . OUT --safe_serialization`, and give OUT with config.json and tokenizer"
    ),
    r".*\.gguf": "holds weights for llama.cpp ({found}); use the checkpoint they were made from",
    r"(?!training_args|optimizer|scheduler|scaler|rng_state|random_states).*\.(bin|pt|pth|ckpt|pkl)": (
        "holds pickled weights ({found}), which can run code and are never loaded; write them again as safetensors, as "
        "docs/checkpoints.md shows"
    ),
    r".*\.(h5|msgpack|onnx|tflite|mlmodel|mlpackage)": "holds weights of another framework ({found}); use safetensors",
}


class Stored(NamedTuple):
    """One tensor of a file: dtype as safetensors names it, such as "BF16"."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


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


def check_folder(folder: Path) -> None:
    """CheckpointError unless the folder holds whole weights as safetensors files and a config.json.

    The sentence says what the folder is instead (adapter, projector, training state, quantised, pickled, ...) and
    what to do.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir())
        adapter = next(filter(_ADAPTER.fullmatch, names), None)
        if adapter is not None:
            raise CheckpointError(
                f"{folder} is a LoRA adapter ({adapter}); name the checkpoint it was trained on as model_base, or give "
                "the merged checkpoint without this file."
            )
        for file in map(folder.joinpath, names):
            if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_POINTER):
                raise CheckpointError(
                    f"{file} is a pointer of Git LFS and not the file itself; run `git lfs pull` in its folder."
                )
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}); check its permissions.") from error
    if WEIGHTS not in names and INDEX not in names:
        raise CheckpointError(f"{folder} {_instead(folder, names)}.")
    if "config.json" not in names:
        raise CheckpointError(f"{folder} holds no config.json; give the folder of a complete checkpoint.")
    weight_files(folder)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights; CheckpointError when the index is damaged or one is missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        inside = all(Path(name).name == name for name in names)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX} is no index of weights; download it again.") from error
    if not names or not inside:
        raise CheckpointError(f"{folder / INDEX} names no files of its own folder; download it again.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {missing[0]}, {len(missing)} of {len(names)} files of weights that its index names; "
            "download the missing ones."
        )
    return [folder / name for name in names]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the weights by name, from the files' headers; CheckpointError for a damaged file."""
    stored = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118
                    part = weights.get_slice(name)
                    stored[name] = Stored(file, part.get_dtype(), tuple(part.get_shape()))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"The weights in {file} cannot be read ({error}); download the file again, as safetensors."
            ) from error
    return stored


def _instead(folder: Path, names: list[str]) -> str:
    """What a folder without weights is, and what to do."""
    for pattern, sentence in _KINDS.items():
        found = sorted(filter(re.compile(pattern).fullmatch, names), key=lambda name: (len(name), name))  # by number
        if found:
            return sentence.format(found=found[0], last=folder / found[-1])
    nested = sorted([*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")])
    if nested:
        return f"holds no weights; give the folder inside it, such as {nested[0].parent}"
    return f"holds no weights; give the folder of a complete checkpoint, with {WEIGHTS}"


def name_tower(config, stored: Mapping[str, Stored]) -> None:
    """Where config.json has no geometry, the ``stored`` weights tell it: ``mm_vision_tower`` may be any path.

    The shapes of so400m-patch14-384 are that tower. For others the config.json in the folder of that name is read,
    where there is one. A tower that neither shows is left to its name.
    """
    folder = str(getattr(config, "mm_vision_tower", None) or "")
    if config.mm_vision_config is not None:
        return
    width, patch = SO400M_384["hidden_size"], SO400M_384["patch_size"]
    shapes = {
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.position_embedding.weight": ((SO400M_384["image_size"] // patch) ** 2, width),
        "encoder.layers.0.mlp.fc1.weight": (SO400M_384["intermediate_size"], width),
    }
    if all(TOWER + key in stored and stored[TOWER + key].shape == shape for key, shape in shapes.items()):
        config.mm_vision_tower = SO400M_NAME
    elif folder and Path(folder, "config.json").is_file():
        geometry = _geometry(Path(folder, "config.json"))
        if geometry is not None:
            config.mm_vision_config = geometry | {"num_hidden_layers": layer_count(stored, TOWER + "encoder.layers.")}


def _geometry(file: Path) -> dict | None:
    """Sizes in the config.json of a SigLIP tower, whole or its vision side alone; None for any other model."""
    settings = read_json(file)
    if settings.get("model_type") not in ("siglip", "siglip_vision_model"):
        return None
    given = settings.get("vision_config", settings)
    check_sizes({"mm_vision_config": given})
    whole = SiglipVisionConfig(**{name: given[name] for name in SO400M_384 if name in given}).to_dict()
    return {name: whole[name] for name in SO400M_384}
