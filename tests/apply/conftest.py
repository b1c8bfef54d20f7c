"""Tiny random models: transformers' LLaVA-OneVision, and ours with the same weights."""

import pytest
import torch

VIDEO, IMAGE, VOCAB = 299, 298, 300
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "image_size": 96,
    "patch_size": 8,
}
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
SIDE, FRAMES = 6, 6  # 12x12 tower tokens pooled to 6x6
PLACEHOLDERS = FRAMES * SIDE * SIDE + 1


def make_theirs():
    """LlavaOnevisionForConditionalGeneration with fixed weights, large enough that every token differs."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config
    from transformers import SiglipVisionConfig as Vision

    config = LlavaOnevisionConfig(
        vision_config=Vision(**VISION, vision_use_head=False),
        text_config=Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[96, 96], [96, 192]],
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def make_ours(theirs, **changes):
    """LlavaQwenForCausalLM with the weights of the other model."""
    from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM

    config = LlavaQwenConfig(
        **TEXT,
        mm_hidden_size=VISION["hidden_size"],
        mm_projector_type="mlp2x_gelu",
        mm_patch_merge_type="spatial_unpad",
        mm_spatial_pool_mode="bilinear",
        mm_newline_position="one_token",
        image_aspect_ratio="pad",
        mm_vision_config=VISION,
        **changes,
    )
    model = LlavaQwenForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.load_state_dict({_our_name(name): value for name, value in theirs.state_dict().items()})
    return model


def _our_name(name: str) -> str:
    name = name.replace("model.vision_tower.vision_model.", "model.vision_tower.")  # transformers 4
    for old, new in (
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.multi_modal_projector.linear_1", "model.mm_projector.0"),
        ("model.multi_modal_projector.linear_2", "model.mm_projector.2"),
        ("model.language_model.", "model."),
    ):
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def pixels(seed: int, frames: int = FRAMES) -> torch.Tensor:
    """(F, 3, 96, 96)."""
    return torch.randn(frames, 3, 96, 96, generator=torch.Generator().manual_seed(seed))


def prompt(*parts: int | str, frames: int = FRAMES) -> list[int]:
    """Ids in which "video" stands for the placeholders of one video, "image" for those of one image
    of two tiles.
    """
    runs = {"video": [VIDEO] * (frames * SIDE * SIDE + 1), "image": [IMAGE] * (144 + 12 * 25)}
    return [token for part in parts for token in (runs[part] if isinstance(part, str) else [part])]


def batch(*rows: list[int], side: str = "left") -> dict[str, torch.Tensor]:
    """input_ids and attention_mask, padded with 0."""
    longest = max(map(len, rows))
    pad = [[0] * (longest - len(row)) for row in rows]
    ids = [p + row if side == "left" else row + p for row, p in zip(rows, pad, strict=True)]
    ones = [
        [0] * len(p) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(p)
        for row, p in zip(rows, pad, strict=True)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(ones)}


@pytest.fixture(scope="session")
def weights():
    return make_theirs().state_dict()


@pytest.fixture
def theirs():
    return make_theirs()


@pytest.fixture
def ours(theirs):
    return make_ours(theirs)
