"""A checkpoint in LLaVA-NeXT's layout, written again in the layout of transformers, which vLLM reads."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from aot_cli.parser import Parser
from llava.model.builder import load_tokenizer
from llava.model.checkpoint import local_folder, model_config, read_settings
from llava.model.folder import stored_tensors, weight_files
from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM
from llava.model.loading import CheckpointError, check_finite, check_fit, reason_of
from llava.model.multimodal_encoder.geometry import name_tower
from llava.model.transformers_layout import (
    MARKS,
    TABLES,
    check_convertible,
    key_in_transformers,
    processor_files,
    transformers_config,
    with_rows,
)


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
    if target.exists():
        raise FileExistsError(f"{target} is there already; give a folder that does not exist yet.")
    folder = local_folder(source)
    stored = stored_tensors(folder)
    name_tower(config, stored)
    check_convertible(source, config)
    keys = check_fit(folder, stored, LlavaQwenForCausalLM, config)
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        marks, length = _write_tokenizer(folder, part)
        rows = max(config.vocab_size, length)
        _write_weights(folder, part, rows, keys)
        _write_json(part / "config.json", transformers_config(config, marks=marks, vocab_size=rows))
        for name, content in processor_files(config).items():
            _write_json(part / name, content)
        if (folder / "generation_config.json").is_file():
            shutil.copyfile(folder / "generation_config.json", part / "generation_config.json")
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


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
            tensors = dict(_renamed(file, rows, keys))
        except SafetensorError as error:
            raise CheckpointError(f"{file} cannot be read ({error}); download the checkpoint again.") from error
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


def _renamed(file: Path, rows: int, keys: Set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, "pt") as weights:
        for key in keys & set(weights.keys()):
            tensor = weights.get_tensor(key)
            yield key_in_transformers(key), with_rows(tensor, rows) if key in TABLES else tensor


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
