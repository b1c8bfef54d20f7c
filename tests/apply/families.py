"""What tests of all of transformers' video families share: text models, padding, and answers made by hand.

Each family has a module that makes its models and prompts, which `module_of` gives.
"""

import importlib
from types import ModuleType

import torch
import transformers

VOCAB, START, END, IMAGE, VIDEO = 120, 110, 111, 112, 113
PLACEHOLDERS = [START, END, IMAGE, VIDEO]
RELEASE = tuple(map(int, transformers.__version__.split(".")[:2]))
NEW = RELEASE >= (5, 0)
CACHE = "cache" if RELEASE >= (5, 24) else "past_key_values"
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
GREEDY = {"max_new_tokens": 6, "do_sample": False}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FRAMES = ("LlavaNextVideo", "InternVL")
QWEN = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "Qwen3VLMoe", *(("Qwen3_5", "Qwen3_5Moe") if NEW else ()))
FAMILIES = QWEN + FRAMES


def close(family: str) -> dict[str, float]:
    """Bounds for a prompt whose parts have other lengths: padded, or read in two turns.

    Linear attention goes by pieces of a fixed length, so that rows of a padded batch are up to 3.9e-5 off each alone in
    the plain model as well.
    """
    return {"rtol": 1e-5, "atol": 1e-4} if family.startswith("Qwen3_5") else CLOSE


def module_of(family: str) -> ModuleType:
    """`qwen` or `frames`, which have functions of the same names."""
    return importlib.import_module("." + ("qwen" if family in QWEN else "frames"), __package__)


def ready(model, attention: str):
    """The model with fixed weights, large enough that every token differs, and no placeholders among its answers."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3 if "qkv" in name or "q_proj" in name or "k_proj" in name else 0.15)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.generation_config.suppress_tokens = PLACEHOLDERS  # random weights would emit them
    return model.eval()


def padded(rows: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask, padded with 0."""
    longest = max(map(len, rows))
    table, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for number, one in enumerate(rows):
        span = slice(longest - len(one), None) if side == "left" else slice(len(one))
        table[number, span], mask[number, span] = torch.tensor(one), 1
    return {"input_ids": table, "attention_mask": mask}


def plain(inputs: dict) -> dict:
    """Inputs for a model without aot.apply."""
    return {name: value for name, value in inputs.items() if name != "video_frames"}


def new_ids(model, inputs: dict, **settings) -> torch.Tensor:
    """(B, n) what generate adds to the prompts."""
    return model.generate(**inputs, **{**GREEDY, **settings})[:, inputs["input_ids"].shape[1] :]


def kept_places(kept) -> torch.Tensor:
    """(S,) flat placeholders of one video's tokens."""
    height, width = kept.grid
    return (kept.frame * height + kept.position[:, 0]) * width + kept.position[:, 1]


def logits_by_hand(model, call: dict) -> torch.Tensor:
    """(L', V) of one spliced prompt; call: the arguments of an unpatched language model."""
    return model.lm_head(model.model.language_model(**call)[0])[0]


def greedy_by_hand(model, call: dict, count: int) -> list[int]:
    """Ids that follow, each from the whole prompt anew."""
    found = []
    for _ in range(count):
        logits = logits_by_hand(model, call)[-1].clone()
        logits[PLACEHOLDERS] = -torch.inf
        found.append(int(logits.argmax()))
        embed = model.get_input_embeddings()(torch.tensor([[found[-1]]]))
        call = dict(call)
        call["inputs_embeds"] = torch.cat([call["inputs_embeds"], embed], dim=1)
        call["attention_mask"] = torch.ones(1, call["inputs_embeds"].shape[1], dtype=torch.long)
        if "position_ids" in call:
            call["position_ids"] = torch.cat([call["position_ids"], call["position_ids"][..., -1:] + 1], dim=-1)
        if "visual_pos_masks" in call:
            call["visual_pos_masks"] = torch.nn.functional.pad(call["visual_pos_masks"], (0, 1))
    return found


def reads_in_pieces() -> bool:
    """From transformers 5.21 on, generate keeps a video's features when it cuts the prompt."""
    from transformers.generation import utils

    return hasattr(utils, "_slice_mm_encoder_output")
