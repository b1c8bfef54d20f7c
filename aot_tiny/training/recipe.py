"""How aot-tiny is made: its geometry and its stages. Which layers are guided stands in packing.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from aot_tiny.film.questions import OPEN_PROMPT
from aot_tiny.training.packing import Density, Mix

SIZE, PATCH = 192, 8  # 24x24 tower tokens a frame, pooled to 12x12
GEOMETRY = {
    "architectures": ["LlavaQwenForCausalLM"],
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 32768,
    "initializer_range": 0.04,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "mm_vision_tower": "aot-tiny-siglip-patch8-192",
    "mm_vision_config": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": PATCH,
    },
    "mm_hidden_size": 128,
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_newline_position": "frame",
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": 2,
    "mm_video_frames": 16,
    # how a chat puts questions to it: the one way it has learnt, one exchange at a time
    "chat_note": "aot-tiny knows nothing but clips drawn by `aot clip`; for a film of yours give --model-path "
    "lmms-lab/llava-onevision-qwen2-7b-ov",
    "chat_suffix": OPEN_PROMPT.removeprefix("{question}"),
    "chat_single_turn": True,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": [[SIZE * a, SIZE * b] for a in range(1, 7) for b in range(1, 7)],
    "tokenizer_model_max_length": 32768,
    "tokenizer_padding_side": "right",
    "use_cache": True,
}


TRACKED_LAYER = 5  # the tracker reads behind this many layers; the others are left to find and say the answer


@dataclass(frozen=True)
class Stage:
    """One run of the trainer. `first` numbers its first training clip, so that stages see different ones."""

    objective: str  # "tower" or "video"
    steps: int
    batch: int  # clips
    learning_rate: float
    first: int
    world: str = "film"
    warmup: float = 0.05
    decay: float = 0.4  # share of the steps over which the rate falls to zero at the end
    passes: int = 1  # video: how often a clip comes, each time with other exchanges and other tokens
    places: bool = False  # tower: ask where in the frame a patch lies
    distilling: float = 0.0  # tower: weight of staying near the tower it began with, but for signs
    mix: Mix = field(default_factory=Mix)
    density: Density | None = None  # video: how much of their clips the batches show
    tracking: float = 2.0  # video: weight of the tracker's loss
    guiding: float = 0.5  # weight of the guided attention
    balance: float = 0.75  # 1: every answer weighs the same, 0: every token of the answers


_LENGTHS = ((16, 0.55), (24, 0.2), (32, 0.13), (48, 0.07), (64, 0.05))
STAGES = {
    "tower": Stage(
        "tower", steps=500, batch=8, learning_rate=1.2e-3, first=0, decay=0.6, places=True, distilling=4.0
    ),
    "answers": Stage(
        "video", steps=1300, batch=6, learning_rate=1e-3, first=1_000_000, warmup=0.03, decay=0.0,
        mix=Mix(open=5, short=4, long=2, text=1),
        density=Density(_LENGTHS, ((0.25, 1.0, 1.0), (0.35, 0.05, 1.0), (0.4, 0.03, 0.3)), most=1728),
    ),
    "polish": Stage(
        "video", steps=5000, batch=6, learning_rate=1e-3, first=2_000_000, warmup=0.01, decay=0.3, passes=4,
        mix=Mix(open=5, short=4, long=2, text=1),
        density=Density(_LENGTHS, ((0.2, 1.0, 1.0), (0.3, 0.03, 1.0), (0.5, 0.03, 0.3)), most=4608),
    ),
    # goes on from the landed weights (docs/training.md); all tokens, any share and few of them
    "shapes": Stage(
        "video", steps=240, batch=4, learning_rate=6e-4, first=9_000_000, world="shapes", warmup=0.03, decay=1.0,
        mix=Mix(open=4, short=5, long=2, text=2),
        density=Density(((16, 1.0),), ((0.3, 1.0, 1.0), (0.25, 0.03, 1.0), (0.45, 0.03, 0.3))),
    ),
}  # fmt: skip


def new_model(tokenizer_folder: str | Path, world: str = "film"):
    """aot-tiny with random weights, for a world, and its tokenizer."""
    from transformers import AutoTokenizer

    from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    config = LlavaQwenConfig(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
        exam_world=world,
        **GEOMETRY,
    )
    return LlavaQwenForCausalLM(config), tokenizer
