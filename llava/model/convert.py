"""A checkpoint in LLaVA-NeXT's layout, written again in the layout of transformers, which vLLM reads."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from aot import pooled_grid
from aot.vllm import ARCHITECTURE as PLUGIN
from aot_cli.parser import Parser
from llava.mm_utils import parse_grid_pinpoints
from llava.model.builder import load_tokenizer
from llava.model.checkpoint import local_folder, model_config, name_tower, read_settings, stored_tensors, weight_files
from llava.model.language_model.configuration_llava_qwen import LlavaQwenConfig, pool_of, tower_config
from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM
from llava.model.loading import CheckpointError, check_finite, check_fit, reason_of
from llava.utils import lock_folder

STOCK = "LlavaOnevisionForConditionalGeneration"
MARKS = ("<image>", "<video>")
# first match wins: what a key starts with there, and here
PREFIXES = (
    ("model.vision_tower.vision_tower.", "vision_tower."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.image_newline", "image_newline"),
    ("", "language_model."),
)
TABLES = ("model.embed_tokens.weight", "lm_head.weight")  # (vocabulary, D)
_TEXT = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "hidden_act", "initializer_range"),
    *("num_attention_heads", "num_key_value_heads", "attention_dropout", "max_position_embeddings", "rms_norm_eps"),
    *("rope_theta", "rope_scaling", "rope_parameters", "use_sliding_window", "sliding_window", "max_window_layers"),
    *("use_cache", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype"),
}
_VISION = {
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"),
    *("layer_norm_eps", "hidden_act"),
}


def check_convertible(source: str | os.PathLike, config: LlavaQwenConfig) -> None:
    """CheckpointError for what the layout of transformers has no place for."""
    merge = getattr(config, "mm_patch_merge_type", None) or "flat"
    ratio = getattr(config, "image_aspect_ratio", None) or "square"
    projector = getattr(config, "mm_projector_type", None)
    for name, value, wanted in (
        ("mm_patch_merge_type", merge, "spatial_unpad"),
        ("mm_projector_type", projector, "mlp2x_gelu"),
        ("image_aspect_ratio", ratio, "anyres_max_9"),
    ):
        if value != wanted:
            raise CheckpointError(
                f"{source} has {name} {value!r}, which has no place in the layout of transformers; only checkpoints "
                f"with {wanted!r} are converted."
            )
    if not getattr(config, "image_grid_pinpoints", None):
        raise CheckpointError(f"{source}: no image_grid_pinpoints in config.json; take it from where the weights came.")
    pool = pool_of(config)
    pooled_grid((2, 2), pool)
    if "/" in pool:
        raise CheckpointError(
            f"{source} has mm_spatial_pool_stride {config.mm_spatial_pool_stride}, which has no place in the layout of "
            "transformers; only checkpoints with 2 are converted."
        )


def key_in_transformers(key: str) -> str:
    """Name of a tensor of LLaVA-NeXT's layout in that of transformers."""
    return next(new + key[len(old) :] for old, new in PREFIXES if key.startswith(old))


def with_rows(table: torch.Tensor, rows: int) -> torch.Tensor:
    """(V, D) -> (rows, D); each new row is the mean of all.

    In the output table its logit is the mean of the others', so that no greedy answer can hold a new token.
    """
    if len(table) >= rows:
        return table
    mean = table.float().mean(dim=0).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), -1)])


def transformers_config(config: LlavaQwenConfig, *, marks: Mapping[str, int], vocab_size: int) -> dict:
    """config.json of the converted checkpoint; marks: ids of "<image>" and "<video>".

    The fields mm_* are LLaVA-NeXT's, kept for `aot.vllm`; transformers has no use for them.
    """
    ours, vision = config.to_dict(), tower_config(config)
    text = {name: value for name, value in ours.items() if name in _TEXT and value is not None}
    frames = getattr(config, "mm_video_frames", None)
    newline = getattr(config, "mm_newline_position", None) or "one_token"
    stock = newline == "one_token" and pool_of(config) == "bilinear"
    return {
        "architectures": [STOCK if stock else PLUGIN],
        "model_type": "llava_onevision",
        "dtype": ours.get("dtype") or ours.get("torch_dtype"),
        "image_token_index": marks["<image>"],
        "video_token_index": marks["<video>"],
        "image_grid_pinpoints": _pinpoints(config),
        "vision_aspect_ratio": "anyres_max_9",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "use_image_newline_parameter": True,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "mm_newline_position": newline,
        "mm_spatial_pool_mode": pool_of(config),
        **({"mm_video_frames": frames} if frames else {}),
        "text_config": text | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": vocab_size},
        "vision_config": {name: value for name, value in vision.to_dict().items() if name in _VISION}
        | {"model_type": "siglip_vision_model", "vision_use_head": False},
    }


def processor_files(config: LlavaQwenConfig) -> dict[str, dict]:
    """The configurations of transformers' processors, by file name."""
    vision = tower_config(config)
    side = vision.image_size
    pixels = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return {
        "preprocessor_config.json": pixels
        | {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
            "do_pad": True,
            "image_grid_pinpoints": _pinpoints(config),
        },
        "video_preprocessor_config.json": pixels
        | {"video_processor_type": "LlavaOnevisionVideoProcessor", "processor_class": "LlavaOnevisionProcessor"},
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": (side // vision.patch_size) ** 2,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
            "image_token": MARKS[0],
            "video_token": MARKS[1],
        },
    }


def _pinpoints(config: LlavaQwenConfig) -> list[list[int]]:
    """(height, width) pairs, where LLaVA-NeXT has (width, height), in its order: the first one wins ties."""
    pairs = parse_grid_pinpoints(config.image_grid_pinpoints, tower_config(config).image_size)
    return [[height, width] for width, height in pairs]


def convert(source: str | os.PathLike, target: str | os.PathLike, *, pool: str | None = None) -> Path:
    """Writes the folder ``target``: weights file by file, configuration, tokenizer and processor.

    source: folder or hub name. pool: the pooling to use in place of the checkpoint's own, such as "average",
    which LLaVA-Video is evaluated with. A model that vLLM's own class would read wrongly (newlines in every
    frame or row, another pooling) names the class of `aot.vllm` as its architecture, so that it is refused
    where that is not installed. Raises CheckpointError for a checkpoint that cannot be written so, and
    FileExistsError when the target holds something.
    """
    config = model_config(source, read_settings(source))
    if pool is not None:
        config.mm_spatial_pool_mode = pool
    target = Path(target)
    _check_new(target)
    folder = local_folder(source)
    stored = stored_tensors(folder)
    name_tower(config, stored)
    check_convertible(source, config)
    keys = check_fit(folder, stored, LlavaQwenForCausalLM, config)
    with _whole(target) as part:
        marks, length = _write_tokenizer(folder, part)
        rows = max(config.vocab_size, length)
        _write_weights(folder, part, rows, keys)
        _write_json(part / "config.json", transformers_config(config, marks=marks, vocab_size=rows))
        for name, content in processor_files(config).items():
            _write_json(part / name, content)
        if (folder / "generation_config.json").is_file():
            shutil.copyfile(folder / "generation_config.json", part / "generation_config.json")
    return target


def _check_new(target: Path) -> None:
    if target.exists():
        raise FileExistsError(f"{target} is there already; give a folder that does not exist yet.")


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """An empty folder of this process alone, which becomes the target at the end or goes.

    Raises FileExistsError when another process is at it. What a killed one left is removed.
    """
    part = target.with_name(f"{target.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(part)
    if lock is None:
        raise FileExistsError(f"Another process writes {target}; wait for it, or give another folder.")
    try:
        _check_new(target)  # which the other one may have finished by now
        for left in part.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield part
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _write_tokenizer(folder: Path, target: Path) -> tuple[dict[str, int], int]:
    """Writes the tokenizer with the two marks; (their ids, number of ids in all)."""
    from transformers import AddedToken

    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS], special_tokens=True)
    try:
        tokenizer.save_pretrained(target)
    except Exception as error:  # where there is no room, tokenizers raises Exception itself
        raise CheckpointError(f"{target} cannot be written ({reason_of(error)}); make room for it.") from error
    return {mark: tokenizer.convert_tokens_to_ids(mark) for mark in MARKS}, len(tokenizer)


def _write_weights(folder: Path, target: Path, rows: int, keys: Set[str]) -> None:
    """The weights under ``keys`` of one file at a time, under their new names, in files of the same number."""
    files = weight_files(folder)
    places, size = {}, 0
    for number, file in enumerate(files, start=1):
        many = f"model-{number:05}-of-{len(files):05}.safetensors"
        name = many if len(files) > 1 else "model.safetensors"
        try:
            with safe_open(file, "pt") as weights:
                tensors = {key_in_transformers(key): weights.get_tensor(key) for key in keys & set(weights.keys())}
        except SafetensorError as error:
            raise CheckpointError(f"{file} cannot be read ({error}); download the checkpoint again.") from error
        for table in tensors.keys() & {key_in_transformers(key) for key in TABLES}:
            tensors[table] = with_rows(tensors[table], rows)
        check_finite(folder, tensors)
        try:
            save_file(tensors, target / name, metadata={"format": "pt"})
        except SafetensorError as error:
            raise CheckpointError(f"{target / name} cannot be written ({error}); make room for it.") from error
        places |= dict.fromkeys(tensors, name)
        size += sum(t.numel() * t.element_size() for t in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": places}
        _write_json(target / "model.safetensors.index.json", index)


def _write_json(path: Path, content: Mapping) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def add_options(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="checkpoint folder or hub name")
    parser.add_argument("target", metavar="TARGET", help="folder to write")
    parser.add_argument("--pool", choices=("bilinear", "average", "max"), help="in place of the checkpoint's pooling")


def execute(options) -> int:
    """Converts; returns the exit code."""
    try:
        written = convert(options.source, options.target, pool=options.pool)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {written}")
    return 0
