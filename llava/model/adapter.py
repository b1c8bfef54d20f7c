"""LoRA adapters (peft) of a checkpoint."""

import os
from pathlib import Path

import torch

from llava.model.loading import CheckpointError, check_finite, reason_of


def adapter_folder(path: str | os.PathLike) -> Path:
    """The folder of an adapter; CheckpointError when it is none, or holds pickled weights."""
    folder = Path(path)
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{folder} holds no adapter_config.json; leave model_base out for a whole checkpoint.")
    pickled = [name for name in ("adapter_model.bin", "non_lora_trainables.bin") if (folder / name).exists()]
    if pickled:
        raise CheckpointError(
            f"{folder} holds pickled weights ({pickled[0]}), which can run code and are never loaded; merge the "
            "adapter where it was trained and save that as safetensors."
        )
    return folder


def merge_adapter(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """The model with the adapter's changes in its own weights; CheckpointError where they do not fit."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise CheckpointError(f"{folder} is a LoRA adapter, which needs peft; run pip install peft.") from error
    try:
        merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise CheckpointError(
            f"The adapter {folder} does not fit its base ({reason_of(error)}); name the right one."
        ) from error
    check_finite(folder, merged.state_dict())
    return merged
