"""What a folder is, is said: one sentence for each thing that people give in the place of a whole checkpoint."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import read_settings
from llava.model.convert import convert
from llava.model.loading import CheckpointError


def refusal(path) -> str:
    """What is said of a folder: one line, and nothing else on the way."""
    with pytest.raises(CheckpointError) as caught:
        load_pretrained_model(path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], ["LoRA adapter (adapter_config.json)", "model_base"]),
        (["adapter_model.bin"], ["LoRA adapter", "merge"]),
        (["config.json", "non_lora_trainables.bin"], ["LoRA adapter (non_lora_trainables.bin)", "merge"]),
        (["config.json", "mm_projector.bin"], ["projector alone (mm_projector.bin)", "whole checkpoint"]),
        (["global_step100", "zero_to_fp32.py"], ["training run in shards (global_step100)", "zero_to_fp32.py . OUT"]),
        (["pytorch_model_fsdp_0", "config.json"], ["training run in shards (pytorch_model_fsdp_0)"]),
        (["__0_0.distcp"], ["training run in shards (__0_0.distcp)"]),
        (["mp_rank_00_model_states.pt"], ["training run in shards"]),
        (["model-00001-of-00002.safetensors", "config.json"], ["of-00002.safetensors) without their index"]),
        (["weights.safetensors"], ["another name (weights.safetensors)", "model.safetensors"]),
        (["pytorch_model.bin", "config.json"], ["pickled weights (pytorch_model.bin)", "docs/checkpoints.md"]),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], ["pickled weights", "safetensors"]),
        (["consolidated.00.pth"], ["pickled weights (consolidated.00.pth)"]),
        (["llava-q4_k_m.gguf"], ["llama.cpp (llava-q4_k_m.gguf)"]),
        (["tf_model.h5"], ["another framework (tf_model.h5)"]),
        (["config.json", "checkpoint-9", "checkpoint-1000"], ["a training run", "/checkpoint-1000"]),
        (["config.json", "training_args.bin"], ["holds no weights"]),
        ([], ["holds no weights"]),
    ],
)  # fmt: skip
def test_other_things_than_a_checkpoint(tmp_path, files, said):
    for name in files:
        path = tmp_path / name
        path.write_text("{}") if "." in name else path.mkdir()
    text = refusal(tmp_path)
    for words in said:
        assert words in text


def test_the_folder_around_a_checkpoint_names_it(checkpoint, tmp_path):
    place = tmp_path / "models--me--mine" / "snapshots" / "abc"
    place.parent.mkdir(parents=True)
    shutil.copytree(checkpoint, place)
    assert f"such as {place}" in refusal(tmp_path / "models--me--mine")
    assert f"such as {place}" in refusal(place.parent)


def test_what_may_lie_beside_whole_weights(checkpoint):
    """Leftovers of a training run that change nothing."""
    for name in ("checkpoint-5", "global_step5"):
        (checkpoint / name).mkdir()
    for name in ("mm_projector.bin", "training_args.bin", "optimizer.pt", "pytorch_model.bin", "zero_to_fp32.py"):
        (checkpoint / name).write_text("")
    load_pretrained_model(checkpoint)
    (checkpoint / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in refusal(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs(checkpoint, name):
    (checkpoint / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{name} is a pointer of Git LFS" in refusal(checkpoint) and "git lfs pull" in refusal(checkpoint)


@pytest.mark.parametrize(("size", "pointer"), [(1023, True), (1024, False)])
def test_pointers_of_git_lfs_are_smaller_than_1024_bytes(checkpoint, size, pointer):
    (checkpoint / "notes.txt").write_bytes(b"version https://git-lfs".ljust(size))
    if pointer:
        assert "notes.txt is a pointer of Git LFS" in refusal(checkpoint)
    else:
        load_pretrained_model(checkpoint)


def test_parts_of_the_weights(make_model, checkpoint):
    """With their index they load; without one of them, or with a damaged index, it is said which."""
    (checkpoint / "model.safetensors").unlink()
    make_model().save_pretrained(checkpoint, max_shard_size="60KB")
    load_pretrained_model(checkpoint)
    index = checkpoint / "model.safetensors.index.json"
    parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    (checkpoint / parts[1]).rename(checkpoint / "moved")
    assert f"lacks {parts[1]}, 1 of {len(parts)} files" in refusal(checkpoint)
    (checkpoint / "moved").rename(checkpoint / parts[1])
    for content in ("[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../model.safetensors"}}'):
        index.write_text(content)
        assert "index" in refusal(checkpoint)


def test_no_tokenizer(checkpoint):
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()
    assert "holds no tokenizer; add tokenizer.json" in refusal(checkpoint)


def test_the_tokenizer_of_another_model(checkpoint):
    file = checkpoint / "tokenizer.json"
    fields = json.loads(file.read_text())
    more = [{**fields["added_tokens"][0], "id": 259 + i, "content": f"<{i}>"} for i in range(60)]
    file.write_text(json.dumps({**fields, "added_tokens": fields["added_tokens"] + more}))
    assert "has 319 tokens and the model only 300" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"bits": 4}, "quantization_config"),
        ("fp8", "quantization_config"),
    ],
)
def test_quantised_by_its_config(checkpoint, field, said):
    file = checkpoint / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": field}))
    assert f"is quantised ({said}" in refusal(checkpoint)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_by_its_weights(checkpoint, dtype):
    weights = load_file(checkpoint / "model.safetensors")
    key = "model.layers.1.mlp.up_proj.weight"
    weights[key] = weights[key].to(dtype)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    assert f"holds {key} as" in refusal(checkpoint) and "quantised" in refusal(checkpoint)


def test_the_layout_of_transformers(make_model, tokenizer, tmp_path):
    source = tmp_path / "source"
    make_model(image_aspect_ratio="anyres_max_9", image_grid_pinpoints="(1x1),...,(2x3)").save_pretrained(source)
    tokenizer.save_pretrained(source)
    text = refusal(convert(source, tmp_path / "target"))
    assert "aot.apply" in text and "aot convert" in text


def test_reading_settings_says_it_too(tmp_path):
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(CheckpointError, match="pickled"):
        read_settings(tmp_path)
