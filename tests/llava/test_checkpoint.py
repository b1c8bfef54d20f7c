"""Published key names and sizes, saving and loading."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from aot import AOTConfig
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM

TOWER = "model.vision_tower.vision_tower.vision_model"
LINEAR = ("weight", "bias")


def published_keys(tower_layers, language_layers, tied):
    keys = {"model.embed_tokens.weight", "model.norm.weight", "model.image_newline"}
    keys |= {f"model.mm_projector.{i}.{kind}" for i in (0, 2) for kind in LINEAR}
    keys |= {f"{TOWER}.embeddings.patch_embedding.{kind}" for kind in LINEAR}
    keys |= {f"{TOWER}.embeddings.position_embedding.weight"}
    keys |= {f"{TOWER}.post_layernorm.{kind}" for kind in LINEAR}
    parts = ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    parts += [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    keys |= {
        f"{TOWER}.encoder.layers.{i}.{part}.{kind}" for i in range(tower_layers) for part in parts for kind in LINEAR
    }
    parts = ["input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight"]
    parts += [f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in LINEAR]
    parts += [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    keys |= {f"model.layers.{i}.{part}" for i in range(language_layers) for part in parts}
    return keys if tied else keys | {"lm_head.weight"}


@pytest.mark.parametrize("tied", [True, False])
def test_saving_keeps_the_published_names_and_values(make_model, tmp_path, tied):
    model = make_model(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == published_keys(5, 2, tied)
    again, info = LlavaQwenForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied


@torch.no_grad()
def test_a_loaded_model_gives_the_same_numbers(make_model, tmp_path, video):
    model = make_model()
    model.config.aot = {"retention": 0.1}
    model.save_pretrained(tmp_path)
    again = LlavaQwenForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.aot == model.config.aot == AOTConfig(retention=0.1) and again.config.model_type == "llava_qwen"
    arguments = {"images": [video], "modalities": ["video"]}
    ids = torch.tensor([[5, -200, 6]])
    assert torch.equal(model(ids, **arguments).logits, again(ids, **arguments).logits)


@pytest.mark.parametrize(
    ("sizes", "vocabulary", "tied", "tensors", "parameters"),
    [
        ((896, 4864, 24, 14, 2), 151936, True, 716, 893_618_208),
        ((3584, 18944, 28, 28, 4), 152064, False, 765, 8_030_348_832),
    ],
)
def test_published_sizes(sizes, vocabulary, tied, tensors, parameters):
    hidden, mlp, layers, heads, kv = sizes
    config = LlavaQwenConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        mm_vision_tower="google/siglip-so400m-patch14-384",
        mm_projector_type="mlp2x_gelu",
        mm_hidden_size=1152,
        mm_patch_merge_type="spatial_unpad",
    )
    with torch.device("meta"):
        model = LlavaQwenForCausalLM(config)
    model.tie_weights()
    found = list(model.parameters())
    assert len(found) == tensors and sum(p.numel() for p in found) == parameters
    assert {name for name, _ in model.named_parameters()} == published_keys(26, layers, tied)


def test_rotary_base_is_saved_for_both_generations_of_transformers(make_model, tmp_path):
    make_model(rope_theta=5e5).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["rope_theta"] == 5e5
    frequencies = LlavaQwenForCausalLM.from_pretrained(tmp_path).model.rotary_emb.inv_freq
    assert frequencies[1].item() == pytest.approx(5e5 ** (-2 / 8))


def test_auto_classes_know_the_model(checkpoint):
    assert type(AutoConfig.from_pretrained(checkpoint)) is LlavaQwenConfig
    assert type(AutoModelForCausalLM.from_pretrained(checkpoint)) is LlavaQwenForCausalLM


def test_the_llama_configuration_imports():
    from llava.model.language_model.llava_llama import LlavaConfig

    assert LlavaConfig().model_type == "llava_llama"
