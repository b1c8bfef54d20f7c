"""What a folder is, by its files, and the names and shapes of its weights: nothing is loaded for it."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from llava.model.loading import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = re.compile(r"adapter_(config|model)\..*|non_lora_trainables\.bin")
_TOKENIZERS = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json"}
_POINTER = b"version https://git-lfs"

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
        for name in names:
            _check_pointer(folder / name)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}); check its permissions.") from error
    whole = WEIGHTS in names or INDEX in names
    if not whole:
        raise CheckpointError(f"{folder} {_instead(folder, names)}.")
    if "config.json" not in names:
        raise CheckpointError(f"{folder} holds no config.json; give the folder of a complete checkpoint.")
    weight_files(folder)


def check_tokenizer_files(folder: Path) -> None:
    """CheckpointError when no file of a tokenizer is there."""
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise CheckpointError(
            f"{folder} holds no tokenizer; add tokenizer.json and tokenizer_config.json from where the weights came."
        )


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


def _check_pointer(file: Path) -> None:
    if file.is_file() and file.stat().st_size < 1024:
        with file.open("rb") as content:
            if content.read(len(_POINTER)) == _POINTER:
                raise CheckpointError(
                    f"{file} is a pointer of Git LFS and not the file itself; run `git lfs pull` in its folder."
                )


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
