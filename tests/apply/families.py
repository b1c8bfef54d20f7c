"""Tiny random models of transformers' video families, and prompts for them."""

import copy

import torch
import transformers

VOCAB, START, END, IMAGE, VIDEO = 120, 110, 111, 112, 113
PLACEHOLDERS = [START, END, IMAGE, VIDEO]
PATCH, MERGE = 4, 2
NEW = int(transformers.__version__.split(".")[0]) >= 5
CACHE = "cache" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 24) else "past_key_values"
QWEN = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "Qwen3VLMoe", *(("Qwen3_5",) if NEW else ()))
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
TOWER = {"depth": 6, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
TOWERS = {
    "Qwen2VL": {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
    "Qwen2_5_VL": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 32,
        "window_size": 2 * MERGE * PATCH,
        "fullatt_block_indexes": [2, 5],
        "tokens_per_second": 2,
    },
    "Qwen3VL": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [1, 3],
    },
}
TOWERS["Qwen3VLMoe"] = TOWERS["Qwen3VL"]
TOWERS["Qwen3_5"] = {name: value for name, value in TOWERS["Qwen3VL"].items() if name != "deepstack_visual_indexes"}
LINEAR = {  # two layers of linear attention, then one that sees all
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


def make(family: str, attention: str = "sdpa", **text):
    """A model with fixed weights, large enough that every token differs."""
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0}
    if family == "Qwen3VLMoe":
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    if family == "Qwen3_5":
        text |= LINEAR
        rope["partial_rotary_factor"] = 1.0
    config = getattr(transformers, f"{family}Config")(
        vision_config={**TOWER, **TOWERS[family]},
        text_config={**TEXT, "rope_parameters" if NEW else "rope_scaling": rope, **text},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=False,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3 if "qkv" in name or "q_proj" in name or "k_proj" in name else 0.15)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.generation_config.suppress_tokens = PLACEHOLDERS  # random weights would emit them
    return model


def video(frames: int = 4, height: int = 8, width: int = 6) -> tuple[str, int, int, int]:
    """A part of a prompt: frames (of the tower, two of the file each), height and width in patches."""
    return "video", frames, height, width


def image(height: int = 4, width: int = 6) -> tuple[str, int, int, int]:
    return "image", 1, height, width


def row(family: str, *parts) -> list[int]:
    """Ids of a prompt of ids, videos and images; Qwen3-VL tells the time before every frame."""
    ids = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
            continue
        kind, frames, height, width = part
        per_frame = height * width // MERGE**2
        if kind == "image":
            ids += [START, *[IMAGE] * per_frame, END]
        elif family.startswith("Qwen3"):
            for frame in range(frames):
                ids += [60 + frame, 59, START, *[VIDEO] * per_frame, END]
        else:
            ids += [START, *[VIDEO] * (frames * per_frame), END]
    return ids


def batch(family: str, *rows: tuple, side: str = "left", seed: int = 1) -> dict[str, torch.Tensor]:
    """What the processor makes of prompts, each a tuple of parts; pixels follow from the seed."""
    ids = [row(family, *parts) for parts in rows]
    longest = max(map(len, ids))
    table, mask = torch.zeros(len(ids), longest, dtype=torch.long), torch.zeros(len(ids), longest, dtype=torch.long)
    for number, one in enumerate(ids):
        span = slice(longest - len(one), None) if side == "left" else slice(len(one))
        table[number, span], mask[number, span] = torch.tensor(one), 1
    inputs = {"input_ids": table, "attention_mask": mask}
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        grids = [part[1:] for parts in rows for part in parts if not isinstance(part, int) and part[0] == kind]
        if grids:
            inputs[f"{kind}_grid_thw"] = torch.tensor(grids)
            inputs[pixels] = torch.cat([_pixels(kind, grid, seed) for grid in grids])
            if kind == "video" and family == "Qwen2_5_VL":
                inputs["second_per_grid_ts"] = torch.tensor([1.5] * len(grids))
    if NEW:
        inputs["mm_token_type_ids"] = (table == IMAGE).int() + 2 * (table == VIDEO).int()
    return inputs


def _pixels(kind: str, grid: tuple[int, int, int], seed: int) -> torch.Tensor:
    """The same for the same part, so that a row of a batch has the pixels that it has alone."""
    generator = torch.Generator().manual_seed(hash((kind == "video", *grid)) % 1000 + seed)
    frames, height, width = grid
    return torch.randn(frames * height * width, 3 * 2 * PATCH * PATCH, generator=generator)


def features(model, pixels: torch.Tensor, grid: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What an unpatched model makes of images or videos: (N, D) of each, and the DeepStack levels (all N, D)."""
    found = model.model.get_image_features(pixels, grid)
    if not isinstance(found, tuple):
        levels = getattr(found, "deepstack_features", None) or []
        return list(found.pooler_output), [torch.cat(level) for level in levels]
    if isinstance(found[0], torch.Tensor):
        return list(found), []
    return list(found[0]), list(found[1])


def by_hand(model, inputs: dict, kept) -> dict:
    """The arguments of an unpatched language model for one prompt whose videos are `kept`, CompressedVideo each.

    Embeddings, positions of the whole prompt and DeepStack are spliced place by place.
    """
    (ids,) = inputs["input_ids"]
    positions = rope(model, inputs)[:, 0]
    embeds = model.get_input_embeddings()(ids)
    images, image_levels = [], []
    if "pixel_values" in inputs:
        images, image_levels = features(model, inputs["pixel_values"], inputs["image_grid_thw"])
    _, video_levels = features(model, inputs["pixel_values_videos"], inputs["video_grid_thw"])
    sizes = [one.tokens_before for one in kept]
    wanted = {}  # of each placeholder of all videos: its tokens
    for number, one in enumerate(kept):
        height, width = one.grid
        for token, frame, (y, x) in zip(one.tokens, one.frame.tolist(), one.position.tolist(), strict=True):
            wanted.setdefault(sum(sizes[:number]) + (frame * height + y) * width + x, []).append(token)
    columns, rows, levels, seen_images, seen_videos = [], [], [], 0, 0
    for column, token in enumerate(ids.tolist()):
        if token == IMAGE:
            columns.append(column)
            rows.append(torch.cat(images)[seen_images])
            levels.append([level[seen_images] for level in image_levels])
            seen_images += 1
        elif token == VIDEO:
            for one in wanted.get(seen_videos, []):
                columns.append(column)
                rows.append(one)
                levels.append([level[seen_videos] for level in video_levels])
            seen_videos += 1
        else:
            columns.append(column)
            rows.append(embeds[column])
            levels.append(None)
    call = {
        "inputs_embeds": torch.stack(rows)[None],
        "position_ids": positions[:, columns][:, None],
        "attention_mask": torch.ones(1, len(rows), dtype=torch.long),
    }
    if video_levels:
        call["visual_pos_masks"] = torch.tensor([[level is not None for level in levels]])
        per_token = [level for level in levels if level is not None]
        call["deepstack_visual_embeds"] = [torch.stack(level) for level in zip(*per_token, strict=True)]
    return call


def rope(model, inputs: dict) -> torch.Tensor:
    """(3, B, L) positions of an unpatched model."""
    names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts", "mm_token_type_ids", "attention_mask")
    call = {name: inputs[name] for name in names if name in inputs}
    return copy.copy(model.model).get_rope_index(inputs["input_ids"], **call)[0]


def logits_by_hand(model, call: dict) -> torch.Tensor:
    """(L', V) of one spliced prompt."""
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
        call["position_ids"] = torch.cat([call["position_ids"], call["position_ids"][..., -1:] + 1], dim=-1)
        call["attention_mask"] = torch.ones(1, call["inputs_embeds"].shape[1], dtype=torch.long)
        if "visual_pos_masks" in call:
            call["visual_pos_masks"] = torch.nn.functional.pad(call["visual_pos_masks"], (0, 1))
    return found
