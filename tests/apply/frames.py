"""Tiny random models of families whose frames have one size, LLaVA-NeXT-Video and InternVL, and prompts for them."""

import torch
import transformers

from .families import IMAGE, TEXT, VIDEO, kept_places, padded, ready

SIDE, PER_FRAME = 24, 9  # pixels; 6x6 patches make 3x3 tokens
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 4,
}
IMAGE_TOKENS = {"LlavaNextVideo": 36 + 6 * 12 + 6, "InternVL": 2 * PER_FRAME}  # a wide image, of two tiles


def make(family: str, attention: str = "sdpa"):
    """A model with fixed weights."""
    torch.manual_seed(0)
    if family == "InternVL":
        sizes = {"image_size": [SIDE, SIDE], "patch_size": [4, 4]}
        tower = {**TOWER, **sizes, "use_qk_norm": True, "layer_scale_init_value": 1.0, "use_mean_pooling": True}
        config = transformers.InternVLConfig(
            vision_config=tower,
            text_config=transformers.Qwen2Config(**TEXT),
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )
    else:
        config = transformers.LlavaNextVideoConfig(
            vision_config=transformers.CLIPVisionConfig(**TOWER),
            text_config=transformers.LlamaConfig(**TEXT),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=[[SIDE, 2 * SIDE]],
            tie_word_embeddings=False,
        )
    return ready(getattr(transformers, f"{family}ForConditionalGeneration")(config), attention)


def video(frames: int = 4, *grid: int) -> tuple[str, int]:
    """A part of a prompt; the grid is given."""
    return "video", frames


def image(*grid: int) -> tuple[str, int]:
    """An image of two tiles."""
    return "image", 2


def clip(family: str) -> tuple[str, int]:
    """A short video."""
    return video(2 if family == "InternVL" else 4)


def prompts(family: str) -> dict[str, tuple]:
    more, fewer = (5, 3) if family == "InternVL" else (4, 4)  # LLaVA-NeXT-Video stacks the videos of a call
    return {
        "video": (5, 6, video(4), 7, 8, 9),
        "two videos": (5, video(more), 6, 7, video(fewer), 8, 9),
        "image and video": (5, image(), 6, video(4), 7, 8),
        "video and image": (5, 6, video(4), 7, image(), 8, 9, 10),
    }


def row(family: str, *parts) -> list[int]:
    """Ids of a prompt of ids, videos and images; InternVL numbers every frame."""
    ids = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
        elif part[0] == "image":
            ids += [IMAGE] * IMAGE_TOKENS[family]
        elif family == "InternVL":
            for frame in range(part[1]):
                ids += [60 + frame, *[IMAGE] * PER_FRAME]
        else:
            ids += [VIDEO] * (part[1] * PER_FRAME)
    return ids


def of_frames(family: str, *parts) -> list[bool]:
    """Which ids of a prompt are placeholders of a video."""
    marks = []
    for part in parts:
        ids = row(family, part)
        marks += [not isinstance(part, int) and part[0] == "video" and token in (IMAGE, VIDEO) for token in ids]
    return marks


def batch(family: str, *rows: tuple, side: str = "left", seed: int = 1) -> dict:
    """What the processor makes of prompts, each a tuple of parts, and which of InternVL's tiles are frames."""
    inputs = padded([row(family, *parts) for parts in rows], side)
    shown = [part for parts in rows for part in parts if not isinstance(part, int)]
    videos, images = ([part for part in shown if part[0] == kind] for kind in ("video", "image"))
    if family == "InternVL":
        ends = torch.tensor([0, *(part[1] for part in shown)]).cumsum(0).tolist()
        inputs["video_frames"] = [
            range(start, end) for part, start, end in zip(shown, ends, ends[1:], strict=False) if part[0] == "video"
        ]
        if shown:
            inputs["pixel_values"] = torch.cat([_pixels(part[0], part[1], seed) for part in shown])
        return inputs
    if videos:
        inputs["pixel_values_videos"] = torch.stack([_pixels("video", part[1], seed) for part in videos])
    if images:
        inputs["pixel_values"] = torch.stack([_pixels("image", 3, seed) for _ in images])  # the whole, and its tiles
        inputs["image_sizes"] = torch.tensor([[SIDE, 2 * SIDE]] * len(images))
    return inputs


def _pixels(kind: str, count: int, seed: int) -> torch.Tensor:
    """The same for the same part, so that a row of a batch has the pixels that it has alone."""
    generator = torch.Generator().manual_seed(count + 10 * (kind == "video") + 100 * seed)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator)


def _features(found) -> list[torch.Tensor]:
    return [one.flatten(0, -2) for one in getattr(found, "pooler_output", found)]


def encoded(model, inputs: dict) -> list[torch.Tensor]:
    """All that the model makes of its videos."""
    if "pixel_values_videos" not in inputs:
        return _features(model.model.get_image_features(inputs["pixel_values"]))
    return _features(model.model.get_video_features(inputs["pixel_values_videos"]))


def by_hand(model, inputs: dict, kept) -> dict:
    """The arguments of an unpatched language model for one prompt whose videos are `kept`, CompressedVideo each."""
    (ids,) = inputs["input_ids"]
    tiles = inputs.get("video_frames")  # InternVL's
    stills = []
    if "pixel_values" in inputs:
        sizes = (inputs["image_sizes"],) if "image_sizes" in inputs else ()
        stills = torch.cat(_features(model.model.get_image_features(inputs["pixel_values"], *sizes)))
    wanted = {}  # of each placeholder of all videos: its tokens
    for number, one in enumerate(kept):
        before = sum(video.tokens_before for video in kept[:number]) if tiles is None else tiles[number][0] * PER_FRAME
        for token, place in zip(one.tokens, kept_places(one).tolist(), strict=True):
            wanted.setdefault(before + place, []).append(token)
    frames = (
        range(int((ids == VIDEO).sum()))
        if tiles is None
        else [tile * PER_FRAME + place for one in tiles for tile in one for place in range(PER_FRAME)]
    )
    frames, of_video, rows, seen = set(frames), IMAGE if tiles is not None else VIDEO, [], {IMAGE: 0, VIDEO: 0}
    for token in ids.tolist():
        place = seen.get(token)
        if place is None:
            rows.append(model.get_input_embeddings()(torch.tensor(token)))
            continue
        seen[token] += 1
        if token == of_video and place in frames:
            rows += wanted.get(place, [])
        else:
            rows.append(stills[place])
    return {"inputs_embeds": torch.stack(rows)[None], "attention_mask": torch.ones(1, len(rows), dtype=torch.long)}
