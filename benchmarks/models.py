"""Models to measure: published shapes with random weights, and the embedded model."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM

LANGUAGE = {
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
VISION = {
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_hidden_size": 1152,
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_spatial_pool_mode": "bilinear",
    "mm_newline_position": "one_token",
    "rope_theta": 1e6,
    "max_position_embeddings": 2**18,
}
STUB = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPES = ("tiny", *LANGUAGE)
TINY = Path(__file__).parents[1] / "checkpoints/aot-tiny"


def make_model(shape: str, device: torch.device, *, layers: int | None = None, tower: bool = True):
    """A model in eval mode: bfloat16 on a GPU, float32 on a CPU. layers: language layers, fewer than published.

    tower: False for a stub of a vision tower, where the language model alone is measured.
    """
    if shape == "tiny":
        return load_pretrained_model(str(TINY), device_map=str(device), torch_dtype="float32")[1]
    changes = {} if layers is None else {"num_hidden_layers": layers}
    changes |= {} if tower else {"mm_hidden_size": 16, "mm_vision_config": STUB}
    config = LlavaQwenConfig(**LANGUAGE[shape] | VISION | changes)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        with device:
            return LlavaQwenForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


@contextmanager
def eager(model) -> Iterator[None]:
    """Tower and language model on plain attention, which writes its maps, for the time inside."""
    attention = [layer.self_attn for layer in model.get_vision_tower().vision_tower.vision_model.encoder.layers]
    before = model.config._attn_implementation, [module.config for module in attention]
    model.config._attn_implementation = "eager"
    for module in attention:
        module.config = copy.deepcopy(module.config)
        module.config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.config._attn_implementation = before[0]
        for module, config in zip(attention, before[1], strict=True):
            module.config = config


def all_maps(model, pixels: torch.Tensor):
    """Projected features (T, N, D) and the attention maps (T, heads, N, N) of every tower layer."""
    tower, maps = model.get_vision_tower(), []
    layers = tower.vision_tower.vision_model.encoder.layers
    hooks = [layer.self_attn.register_forward_hook(lambda m, a, out: maps.append(out[1])) for layer in layers]
    try:
        with eager(model):
            features = model.encode_images(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return features, maps
