"""Prompt and image helpers under the names that LLaVA-NeXT's callers use."""

import ast
import math
import re
from collections.abc import Sequence

import torch
from PIL import Image

from aot import AOTError
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX

MOST_PINPOINTS = 1000


def tokenizer_image_token(prompt: str, tokenizer, image_token_index=IMAGE_TOKEN_INDEX, return_tensors=None):
    """Token ids of a prompt with ``image_token_index`` in the place of every ``<image>``.

    The text between marks is tokenised apart; a beginning-of-sequence token, where the tokenizer adds one, is
    kept once, at the front. Returns a list, or a (L,) int64 tensor with ``return_tensors="pt"``; ValueError
    for others.
    """
    chunks = [list(tokenizer(chunk).input_ids) for chunk in prompt.split(DEFAULT_IMAGE_TOKEN)]
    bos = getattr(tokenizer, "bos_token_id", None)
    adds_bos = bos is not None and bool(chunks[0]) and chunks[0][0] == bos
    ids = chunks[0]
    for chunk in chunks[1:]:
        ids = ids + [image_token_index] + (chunk[1:] if adds_bos else chunk)
    if return_tensors is None:
        return ids
    if return_tensors != "pt":
        raise ValueError(f"return_tensors is {return_tensors!r}; use 'pt' or None.")
    return torch.tensor(ids, dtype=torch.long)


def get_model_name_from_path(model_path: str) -> str:
    """Last part of a path; for a ``checkpoint-N`` folder the last two parts joined by an underscore."""
    parts = model_path.strip("/").split("/")
    return "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]


def select_best_resolution(
    original_size: tuple[int, int], possible_resolutions: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """The (width, height) that keeps most of the image's own pixels, then wastes least; the first one wins
    ties.
    """
    width, height = original_size

    def rank(resolution: tuple[int, int]) -> tuple[int, int]:
        scale = min(resolution[0] / width, resolution[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - resolution[0] * resolution[1]

    return tuple(max(possible_resolutions, key=rank))


def parse_grid_pinpoints(grid_pinpoints, tile: int) -> list[tuple[int, int]]:
    """Resolutions as (width, height) pairs from a list, its text, or the range form ``"(1x1),...,(6x6)"`` in
    tiles.

    Raises AOTError for what is none of these, and for more than MOST_PINPOINTS.
    """
    corners = []
    if isinstance(grid_pinpoints, str):
        corners = [(int(a), int(b)) for a, b in re.findall(r"\((\d{1,9})x(\d{1,9})\)", grid_pinpoints)]
    if corners:
        (first_w, first_h), (last_w, last_h) = corners[0], corners[-1]
        count = (last_w - first_w + 1) * (last_h - first_h + 1)
        wide, high = (range(a, b + 1) for a, b in ((first_w, last_w), (first_h, last_h)))
        pairs = [(w * tile, h * tile) for w in wide for h in high] if 0 < count <= MOST_PINPOINTS else []
    else:
        try:
            listed = ast.literal_eval(grid_pinpoints) if isinstance(grid_pinpoints, str) else grid_pinpoints
            pairs = [(int(width), int(height)) for width, height in listed]
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            pairs = []
    if not 0 < len(pairs) <= MOST_PINPOINTS or min(map(min, pairs)) < 1:
        raise AOTError(
            f"image_grid_pinpoints is {str(grid_pinpoints)[:60]!r}; it must be 1 to {MOST_PINPOINTS} pairs of a width "
            "and a height in pixels, or a range of tiles such as (1x1),...,(6x6)."
        )
    return pairs


def get_anyres_image_grid_shape(image_size: tuple[int, int], grid_pinpoints, patch_size: int) -> tuple[int, int]:
    """Tiles across and down, (columns, rows), of an image of (width, height); ``patch_size`` is a tile's
    side.
    """
    width, height = select_best_resolution(image_size, parse_grid_pinpoints(grid_pinpoints, patch_size))
    return width // patch_size, height // patch_size


def expand2square(pil_img: Image.Image, background_color) -> Image.Image:
    """The image centred on a square of its longer side."""
    width, height = pil_img.size
    if width == height:
        return pil_img
    side = max(width, height)
    square = Image.new(pil_img.mode, (side, side), background_color)
    square.paste(pil_img, ((side - width) // 2, (side - height) // 2))
    return square


def resize_and_pad_image(image: Image.Image, target_resolution: tuple[int, int]) -> Image.Image:
    """The image resized (bicubic) to fit (width, height), centred on black."""
    width, height = image.size
    full_width, full_height = target_resolution
    if full_width / width < full_height / height:
        fitted = full_width, min(math.ceil(height * full_width / width), full_height)
    else:
        fitted = min(math.ceil(width * full_height / height), full_width), full_height
    canvas = Image.new("RGB", target_resolution, (0, 0, 0))
    canvas.paste(
        image.resize(fitted, Image.Resampling.BICUBIC),
        ((full_width - fitted[0]) // 2, (full_height - fitted[1]) // 2),
    )
    return canvas


def process_anyres_image(image: Image.Image, processor, grid_pinpoints) -> torch.Tensor:
    """Pixels (1 + tiles, 3, H, W): the whole image stretched to one tile, then the tiles of its best
    resolution.
    """
    tile = processor.crop_size["height"]
    best = select_best_resolution(image.size, parse_grid_pinpoints(grid_pinpoints, tile))
    padded = resize_and_pad_image(image, best)
    tiles = [
        padded.crop((left, top, left + tile, top + tile))
        for top in range(0, best[1], tile)
        for left in range(0, best[0], tile)
    ]
    whole = image.resize((tile, tile), Image.Resampling.BICUBIC)
    return processor.preprocess([whole, *tiles], return_tensors="pt")["pixel_values"]


def process_images(images: Sequence[Image.Image], image_processor, model_cfg) -> torch.Tensor | list[torch.Tensor]:
    """Pixels of several images as ``model_cfg.image_aspect_ratio`` asks.

    ``anyres…``: (n, tiles, 3, H, W); ``pad`` (square with the processor's mean colour): (n, 3, H, W); None or
    ``square`` (stretched): (n, 3, H, W). Images of unequal tile counts come back as a list. ValueError for
    other modes.
    """
    mode = getattr(model_cfg, "image_aspect_ratio", None)
    images = [image.convert("RGB") for image in images]
    if mode in (None, "square"):
        return image_processor.preprocess(images, return_tensors="pt")["pixel_values"]
    if mode == "pad":
        background = tuple(int(mean * 255) for mean in image_processor.image_mean)
        images = [expand2square(image, background) for image in images]
        return image_processor.preprocess(images, return_tensors="pt")["pixel_values"]
    if mode != "anyres" and not mode.startswith("anyres_max_"):
        raise ValueError(f"Unknown image_aspect_ratio {mode!r}; use 'square', 'pad', 'anyres' or 'anyres_max_N'.")
    pixels = [process_anyres_image(image, image_processor, model_cfg.image_grid_pinpoints) for image in images]
    return torch.stack(pixels) if len({p.shape for p in pixels}) == 1 else pixels


class KeywordsStoppingCriteria:
    """Stops a row once its new tokens end with, or their text holds, one of the keywords.

    The model's ``generate`` hands on new tokens only, so nothing of the prompt is searched.
    """

    def __init__(self, keywords: Sequence[str], tokenizer, input_ids: torch.Tensor | None = None):
        self.keywords = list(keywords)
        self.tokenizer = tokenizer
        self.keyword_ids = []
        for keyword in self.keywords:
            ids = list(tokenizer(keyword).input_ids)
            if len(ids) > 1 and ids[0] == getattr(tokenizer, "bos_token_id", None):
                ids = ids[1:]
            self.keyword_ids.append(ids)
        self.max_keyword_len = max((len(ids) for ids in self.keyword_ids), default=0)

    def __call__(self, output_ids: torch.Tensor, scores=None, **kwargs) -> torch.Tensor:
        """output_ids: (B, L) new tokens. Returns (B,) bool, True where the row is done."""
        done = [False] * output_ids.shape[0]
        for row, tail in enumerate(output_ids[:, -self.max_keyword_len :].tolist() if self.max_keyword_len else []):
            done[row] = any(ids and tail[-len(ids) :] == ids for ids in self.keyword_ids)
            if not done[row]:
                text = self.tokenizer.decode(tail, skip_special_tokens=True)
                done[row] = any(keyword in text for keyword in self.keywords)
        return torch.tensor(done, device=output_ids.device)
