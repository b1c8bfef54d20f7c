"""Tiny models with random weights, and a checkpoint of one on disk."""

from pathlib import Path

import pytest
import torch


def tiny_config(**overrides):
    from llava.model.language_model.llava_qwen import LlavaQwenConfig

    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "pad_token_id": 257,
        "eos_token_id": 256,
        "mm_hidden_size": 24,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": "bilinear",
        "mm_newline_position": "frame",
        "image_aspect_ratio": "pad",
        "mm_vision_config": {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "image_size": 96,
            "patch_size": 8,
        },
    }
    return LlavaQwenConfig(**{**settings, **overrides})


@pytest.fixture
def make_model():
    """Factory of models with fixed random weights, large enough that every token differs; settings as
    keywords.
    """
    from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM

    def make(**overrides):
        torch.manual_seed(0)
        model = LlavaQwenForCausalLM(tiny_config(**overrides)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.15)
        return model

    return make


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def video():
    """Pixels (6, 3, 96, 96)."""
    return torch.randn(6, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level tokenizer with the Qwen chat marks, 259 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )


@pytest.fixture
def checkpoint(make_model, tokenizer, tmp_path) -> Path:
    """Folder of a tiny checkpoint in LLaVA-NeXT's layout."""
    folder = tmp_path / "checkpoint"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
