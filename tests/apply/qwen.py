"""Tiny random models of transformers' Qwen-VL families, and prompts for them."""

import copy

import torch
import transformers

from .families import END, IMAGE, NEW, START, TEXT, VIDEO, kept_places, padded, ready

PATCH, MERGE = 4, 2
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
TOWERS["Qwen3_5Moe"] = TOWERS["Qwen3_5"]
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
    if family.endswith("Moe"):
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        text |= {"shared_expert_intermediate_size": 32} if family == "Qwen3_5Moe" else {"decoder_sparse_step": 1}
    if family.startswith("Qwen3_5"):
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
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    return ready(model, attention)


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
    inputs = padded([row(family, *parts) for parts in rows], side)
    table = inputs["input_ids"]
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


def clip(family: str) -> tuple[str, int, int, int]:
    """A short video."""
    return video(2, 6, 4)


def prompts(family: str) -> dict[str, tuple]:
    return {
        "video": (5, 6, video(), 7, 8, 9),
        "two videos": (5, video(3, 4, 8), 6, 7, video(2, 8, 6), 8, 9),
        "image and video": (5, image(), 6, video(3, 4, 8), 7, 8),
        "video and image": (5, 6, video(4, 8, 6), 7, image(6, 4), 8, 9, 10),
    }


def of_frames(family: str, *parts) -> list[bool]:
    """Which ids of a prompt are placeholders of a video."""
    return [token == VIDEO for token in row(family, *parts)]


def encoded(model, inputs: dict) -> list[torch.Tensor]:
    """All that the model makes of its videos."""
    videos, levels = features(model, inputs["pixel_values_videos"], inputs["video_grid_thw"])
    return [*videos, *levels]


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

    Embeddings, positions of the whole prompt and DeepStack are spliced place by place; rows of DeepStack are merged as
    the tokens were, where the trace says how.
    """
    (ids,) = inputs["input_ids"]
    positions = rope(model, inputs)[:, 0]
    embeds = model.get_input_embeddings()(ids)
    images, image_levels = [], []
    if "pixel_values" in inputs:
        images, image_levels = features(model, inputs["pixel_values"], inputs["image_grid_thw"])
    _, video_levels = features(model, inputs["pixel_values_videos"], inputs["video_grid_thw"])
    sizes = [one.tokens_before for one in kept]
    wanted = {}  # of each placeholder of all videos: its tokens, each with its rows
    for number, one in enumerate(kept):
        first = sum(sizes[:number])
        own = [level[first : first + one.tokens_before] for level in video_levels]
        for token, place in zip(one.tokens, kept_places(one).tolist(), strict=True):
            rows = [moved(one, place, level) for level in own]
            wanted.setdefault(first + place, []).append((token, rows))
    columns, rows, levels, seen_images, seen_videos = [], [], [], 0, 0
    for column, token in enumerate(ids.tolist()):
        if token == IMAGE:
            columns.append(column)
            rows.append(torch.cat(images)[seen_images])
            levels.append([level[seen_images] for level in image_levels])
            seen_images += 1
        elif token == VIDEO:
            for one, of_levels in wanted.get(seen_videos, []):
                columns.append(column)
                rows.append(one)
                levels.append(of_levels)
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


def moved(kept, place: int, rows: torch.Tensor) -> torch.Tensor:
    """The row of a kept place, (D,), and what the plan brings there from the video's others, (T·P, D)."""
    if "supplier" not in kept.trace:
        return rows[place]
    (clip, anchor), *_ = (
        (kept.trace["anchor"] == place)
        .nonzero()[kept.trace["plan"].sum(1)[kept.trace["anchor"] == place].argsort(descending=True)]
        .tolist()
    )
    share = kept.trace["plan"][clip, :, anchor]  # (n,) of each token of the clip
    if share.sum() == 0:
        return rows[place]
    mean = (share[:, None] * rows[kept.trace["supplier"][clip]]).sum(0) / share.sum()
    strength = kept.config.merge_strength * float(share.sum())
    weight = min(strength / (1 + strength), kept.config.merge_cap)
    return (1 - weight) * rows[place] + weight * mean


def rope(model, inputs: dict) -> torch.Tensor:
    """(3, B, L) positions of an unpatched model."""
    names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts", "mm_token_type_ids", "attention_mask")
    call = {name: inputs[name] for name in names if name in inputs}
    return copy.copy(model.model).get_rope_index(inputs["input_ids"], **call)[0]
