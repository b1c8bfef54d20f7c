"""Tiny checkpoints of transformers' video models, with a tokenizer, a chat template and processor settings."""

import json
from pathlib import Path

import torch
import transformers
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from llava.utils import shipped

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% elif part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OTHER_TEMPLATE = QWEN_TEMPLATE.replace("<|vision_start|><|video_pad|><|vision_end|>", "<video>\n").replace(
    "<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n"
)
MARKS = [
    "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|image_pad|>",
    "<video>", "<IMG_CONTEXT>", "<img>", "</img>",
]  # fmt: skip
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
DEEP = {"depth": 3, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
LINEAR = {  # after a layer of linear attention, one that sees all
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "internvl", "llava_next_video", "llava_onevision")


def make(folder: Path, family: str) -> Path:
    """Writes a checkpoint with random weights."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(shipped("checkpoints/aot-tiny"))
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    ids = dict(zip(MARKS, tokenizer.convert_tokens_to_ids(MARKS), strict=True))
    torch.manual_seed(0)
    model, video = _MAKERS[family](ids, {**TEXT, "vocab_size": len(tokenizer)})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
        model.lm_head.weight[list(ids.values())] = 0  # random weights would answer with them
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    template = QWEN_TEMPLATE if family.startswith("qwen") else OTHER_TEMPLATE
    (folder / "chat_template.jinja").write_text(template)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
    image = "GotOcr2ImageProcessor" if family == "internvl" else "Qwen2VLImageProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps({**video, "image_processor_type": image}))
    return folder


def _qwen(ids: dict, text: dict, family: str):
    names = {
        "qwen2_5_vl": "Qwen2_5_VL",
        "qwen3_vl": "Qwen3VL",
        "qwen3_vl_moe": "Qwen3VLMoe",
        "qwen3_5": "Qwen3_5",
        "qwen3_5_moe": "Qwen3_5Moe",
    }
    name = names[family]
    new = int(transformers.__version__.split(".")[0]) >= 5
    head = 32  # the least that vLLM's CPU build has
    rope = {"rope_type": "default", "mrope_section": [8, 4, 4], "rope_theta": 10000.0}
    if family == "qwen2_5_vl":
        text = {**text, "num_attention_heads": 1}
    else:
        rope["mrope_interleaved"] = True  # vLLM asks; transformers knows
    tower = {**DEEP, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32}
    tower |= (
        {"window_size": 16, "fullatt_block_indexes": [0, 2], "tokens_per_second": 2}
        if family == "qwen2_5_vl"
        else {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    )
    if family.startswith("qwen3_5"):
        del tower["deepstack_visual_indexes"]
        rope["partial_rotary_factor"] = 1.0
        text = {**text, **LINEAR}
    if family.endswith("moe"):
        text = {**text, **EXPERTS}
    if family == "qwen3_5_moe":  # vLLM gives every mixture a shared expert that has a size here
        text["shared_expert_intermediate_size"] = 32
    config = getattr(transformers, f"{name}Config")(
        vision_config=tower,
        text_config={**text, "head_dim": head, "rope_parameters" if new else "rope_scaling": rope},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    least, most = (64, 8 * 8 * 36) if family == "qwen2_5_vl" else (64, 8 * 8 * 400)
    mean, std = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD) if family == "qwen2_5_vl" else ([0.5] * 3, [0.5] * 3)
    settings = {
        "patch_size": 4,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": least, "longest_edge": most},
        "image_mean": mean,  # as published; vLLM takes what stands here of images for videos too
        "image_std": std,
    }
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), settings


def _internvl(ids: dict, text: dict):
    config = transformers.InternVLConfig(
        vision_config={**TOWER, "image_size": [24, 24], "patch_size": [4, 4], "use_mean_pooling": True},
        text_config=transformers.Qwen2Config(**text),
        image_token_id=ids["<IMG_CONTEXT>"],
        tie_word_embeddings=False,
    )
    return transformers.InternVLForConditionalGeneration(config), {"size": {"height": 24, "width": 24}}


def _next_video(ids: dict, text: dict):
    config = transformers.LlavaNextVideoConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER, image_size=24, patch_size=4),
        text_config=transformers.LlamaConfig(**text),
        image_token_index=ids["<IMG_CONTEXT>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=[[24, 48]],
        tie_word_embeddings=False,
    )
    crop = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    return transformers.LlavaNextVideoForConditionalGeneration(config), crop


def _onevision(ids: dict, text: dict):
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**TOWER, image_size=24, patch_size=4, vision_use_head=False),
        text_config=transformers.Qwen2Config(**text),
        image_token_index=ids["<IMG_CONTEXT>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=[[24, 24]],
        tie_word_embeddings=False,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), {"size": {"height": 24, "width": 24}}


_MAKERS = {
    "qwen2_5_vl": lambda ids, text: _qwen(ids, text, "qwen2_5_vl"),
    "qwen3_vl": lambda ids, text: _qwen(ids, text, "qwen3_vl"),
    "qwen3_vl_moe": lambda ids, text: _qwen(ids, text, "qwen3_vl_moe"),
    "qwen3_5": lambda ids, text: _qwen(ids, text, "qwen3_5"),
    "qwen3_5_moe": lambda ids, text: _qwen(ids, text, "qwen3_5_moe"),
    "internvl": _internvl,
    "llava_next_video": _next_video,
    "llava_onevision": _onevision,
}
