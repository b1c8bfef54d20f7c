"""The layout of transformers' LLaVA-OneVision checkpoints: names, configuration and processor, as pure functions."""

import os
from collections.abc import Mapping

import torch

from aot import pooled_grid
from aot.vllm import ARCHITECTURE as PLUGIN
from llava.mm_utils import parse_grid_pinpoints
from llava.model.fields import pool_of
from llava.model.language_model.configuration_llava_qwen import LlavaQwenConfig
from llava.model.loading import CheckpointError
from llava.model.multimodal_encoder.geometry import tower_config

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
