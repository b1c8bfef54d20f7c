"""Checkpoint -> (tokenizer, model, image processor, context length)."""

import copy
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError

from aot import AOTConfig
from aot.deprecated import renamed_keywords
from llava.model.checkpoint import local_folder, model_config, name_tower, read_settings, stored_tensors
from llava.model.loading import CheckpointError, check_finite, check_fit, read_json, reason_of
from llava.utils import gc_disabled

_HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only")
_IGNORED_ARGUMENTS = ("multimodal", "low_cpu_mem_usage")  # upstream's; every model here is multimodal
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "auto": "auto"}
FEW_BITS = ("8bit", "4bit", "int8")  # names of what `few_bits` is asked for
FULL_PRECISION = ["model.vision_tower", "model.mm_projector", "lm_head"]  # the tower above all: the method reads it
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


@renamed_keywords(aot="compression")
def load_pretrained_model(
    model_path: str | os.PathLike,
    model_base: str | None = None,
    model_name: str | None = None,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map="auto",
    torch_dtype: str | torch.dtype = "float16",
    attn_implementation: str | None = "flash_attention_2",
    customized_config=None,
    overwrite_config: Mapping | None = None,
    *,
    compression: AOTConfig | Mapping | None = None,
    tower_mode: str = "eager", tower_dtype: str | torch.dtype | None = None,
    **kwargs,
):  # fmt: skip
    """Loads a SigLIP + Qwen2 checkpoint in LLaVA-NeXT's layout from a folder or the hub.

    load_8bit, load_4bit: the language model in few bits by bitsandbytes; load_int8=True: by torchao, on CPUs too.
    model_base: the checkpoint that a LoRA adapter in model_path was trained on; it is merged in. device_map: "auto"
    (the GPU where there is one), a device or transformers' map. torch_dtype: "float16" (float32 on CPU), "bfloat16",
    "float32" or "auto". attn_implementation: "flash_attention_2" becomes "sdpa" where flash-attn cannot run.
    customized_config replaces the configuration, overwrite_config sets fields of it. compression: for
    ``model.config.aot``; None keeps the configuration's own. tower_mode: see `SigLipVisionTower.set_mode`. tower_dtype:
    of the vision tower alone; on CPUs with bfloat16 instructions "bfloat16" is worth it there.

    Returns (tokenizer, model, image_processor, context_len in tokens). Raises CheckpointError for a checkpoint that
    cannot be used, AOTError for bad settings (both ValueErrors), TypeError for unknown arguments.
    """
    if unknown := set(kwargs) - {*_HUB_ARGUMENTS, *_IGNORED_ARGUMENTS, "load_int8"}:
        raise TypeError(f"load_pretrained_model() got an unexpected argument {sorted(unknown)[0]!r}.")
    quantised = few_bits(load_8bit, load_4bit, kwargs.get("load_int8", False))
    adapter, model_path = (None, model_path) if model_base is None else (adapter_folder(model_path), model_base)
    hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
    # what the checkpoint is, before anything large is fetched or loaded
    config = model_config(model_path, read_settings(model_path, **hub), quantised=True)
    config = _changed(customized_config or config, overwrite_config or {}, compression)
    device, placed = _place(device_map)
    dtype, folder = _dtype(torch_dtype, device), local_folder(model_path, **hub)
    # the weights, and the tokenizer that must fit them
    with gc_disabled():  # the modelling code is imported here
        tokenizer = load_tokenizer(folder, config.vocab_size)
        model = _load_model(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention_for(attn_implementation, device, dtype),
            **({"device_map": placed or str(device)} if placed is not None or quantised else {}),
            **({"quantization_config": quantised} if quantised else {}),
        )
        model = model if adapter is None else merge_adapter(model, adapter)
    # where and how it runs
    if placed is None and quantised is None:
        model.to(device)
    tower = model.get_vision_tower()
    if tower_dtype is not None:
        tower.to(_dtype(tower_dtype, device, "tower_dtype"))
    if tower_mode != "eager":
        tower.set_mode(tower_mode)
    return tokenizer, model.eval(), tower.image_processor, context_length(model.config)


def context_length(config) -> int:
    """Tokens that prompt and answer may take together."""
    for name in ("max_sequence_length", "max_position_embeddings", "tokenizer_model_max_length"):
        if getattr(config, name, None):
            return getattr(config, name)
    return 2048


def _changed(config, fields: Mapping, compression: AOTConfig | Mapping | None):
    """A copy of the configuration with these fields and this token reduction."""
    config = copy.deepcopy(config)
    for name, value in fields.items():
        # in transformers 5 assigning None here would clear the rotary parameters
        if not (name == "rope_scaling" and value is None):
            setattr(config, name, value)
    if compression is not None:
        config.aot = compression
    return config


def _place(device_map) -> tuple[torch.device, object | None]:
    """The device to move the model to, or (second) a map that transformers is to spread it by."""
    if isinstance(device_map, Mapping) and set(device_map) == {""}:
        device_map = device_map[""]
    if device_map in (None, "auto"):
        if torch.cuda.device_count() > 1 and device_map == "auto":
            return torch.device("cuda"), "auto"
        return torch.device("cuda" if torch.cuda.is_available() else "cpu"), None
    if isinstance(device_map, torch.device | int):
        return torch.device(device_map), None
    if isinstance(device_map, str) and device_map.split(":")[0] in ("cpu", "cuda", "mps"):
        return torch.device(device_map), None
    return torch.device("cuda"), device_map


def _dtype(name: str | torch.dtype, device: torch.device, argument: str = "torch_dtype") -> torch.dtype | str:
    if argument == "tower_dtype" and name == "auto":
        raise ValueError("tower_dtype 'auto' says nothing; name a dtype or leave it out.")
    dtype = _DTYPES.get(name) if isinstance(name, str) else name
    if dtype is None:
        raise ValueError(f"Unknown {argument} {name!r}; use one of: {', '.join(_DTYPES)}.")
    # half precision is slow and partly missing on CPU
    return torch.float32 if device.type == "cpu" and dtype == torch.float16 else dtype


def attention_for(name: str | None, device: torch.device, dtype: torch.dtype | str) -> str:
    """The attention to ask transformers for: flash-attn only where it can run."""
    if name != "flash_attention_2":
        return name or "sdpa"
    from transformers.utils import is_flash_attn_2_available

    usable = device.type == "cuda" and dtype != torch.float32 and is_flash_attn_2_available()
    return "flash_attention_2" if usable else "sdpa"


def load_tokenizer(folder: Path, vocab_size: int | None = None):
    """The tokenizer of a checkpoint's folder.

    Raises CheckpointError when there is none that loads without code of its own, or it has more than vocab_size tokens.
    """
    import transformers

    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise CheckpointError(
            f"{folder} holds no tokenizer; add tokenizer.json and tokenizer_config.json from where the weights came."
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of a file that does not parse, tokenizers raises Exception itself
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"The tokenizer of {folder} is code of its own (auto_map in tokenizer_config.json), which is never "
                "run; add a tokenizer.json that needs none."
            ) from error
        raise CheckpointError(
            f"{folder} holds no tokenizer that transformers {transformers.__version__} loads ({reason_of(error)}); "
            "add its tokenizer.json and tokenizer_config.json, saved by this version or an older one."
        ) from error
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise CheckpointError(
            f"The tokenizer of {folder} has {len(tokenizer)} tokens and the model only {vocab_size}; take both from "
            "the same checkpoint."
        )
    return tokenizer


def _load_model(folder: Path, *, config, **arguments):
    from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM

    stored = stored_tensors(folder)
    name_tower(config, stored)
    if given := getattr(config, "quantization_config", None):
        return load_quantised(folder, LlavaQwenForCausalLM, given, config=config, **arguments)
    check_fit(folder, stored, LlavaQwenForCausalLM, config)
    if (generation := folder / "generation_config.json").is_file():
        read_json(generation)  # transformers takes what is no object for one
    try:
        return LlavaQwenForCausalLM.from_pretrained(folder, config=config, use_safetensors=True, **arguments)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint {folder} cannot be read ({reason_of(error)}); download it again."
        ) from error


def few_bits(eight: bool, four: bool, int8: bool):
    """The configuration that transformers quantises by while it loads, or None.

    eight, four: 8-bit or 4-bit (NF4) by bitsandbytes. int8: weights in int8 by torchao. Raises CheckpointError for
    more than one, and where the library is not installed.
    """
    if eight + four + int8 > 1:
        raise CheckpointError("load_8bit, load_4bit and load_int8 exclude each other; set one of them.")
    if not (eight or four or int8):
        return None
    library = "torchao" if int8 else "bitsandbytes"
    if find_spec(library) is None:
        raise CheckpointError(f"Loading in few bits needs {library}; run pip install {library}.")
    if int8:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=FULL_PRECISION)
    from transformers import BitsAndBytesConfig

    if eight:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=FULL_PRECISION)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
        llm_int8_skip_modules=FULL_PRECISION,
    )


def load_quantised(folder: Path, model_class: type, settings: dict, **arguments):
    """A checkpoint that is quantised already, as transformers loads it; CheckpointError where it cannot be had here.

    settings: its quantization_config.
    """
    from transformers.quantizers.auto import AutoQuantizationConfig

    try:
        AutoQuantizationConfig.from_dict(settings)  # else a method that is not known would be loaded as if it were none
        return model_class.from_pretrained(folder, use_safetensors=True, **arguments)
    except CheckpointError:
        raise
    except (ImportError, OSError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        reason = reason_of(error).split(" - ")[0]
        raise CheckpointError(
            f"{folder} is quantised ({settings.get('quant_method')}), which cannot be loaded here ({reason}); use the "
            "original checkpoint in float16 or bfloat16."
        ) from error


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
