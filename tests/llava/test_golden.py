"""Upstream's numbers on tiny checkpoints: all of ../shared/golden/llava where present, else the copy in
tests/data.

The copy holds the tied checkpoint and, of every array of the golden file, at most 600 values at even steps.
"""

import json
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llava.mm_utils import process_images
from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "golden" / "llava"
COPY = ROOT / "tests" / "data" / "llava"
TOLERANCE = 2e-5
PROMPT = torch.tensor([[5, 6, 7, -200, 9, 10, 11, 12]])


def embeds(model, ids, images, modalities, **kwargs):
    return model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, images, modalities, **kwargs)[4]


def set_video(model, pool, newline):
    model.config.mm_spatial_pool_mode, model.config.mm_newline_position = pool, newline


def tower_results(model, pixels):
    yield "video_pixel_values", pixels
    tower = model.get_vision_tower().encode(pixels[:2], received=(1, 3))
    yield "tower_out", tower.features
    yield "attn_received_l1", tower.received[1]
    yield "attn_received_last", tower.received[3]
    yield "proj_out", model.encode_images(pixels[:2])


def video_results(model, pixels, kind):
    modes = ("grid",) if kind == "untied" else ("one_token", "grid", "frame", "no_token")
    whole = {("bilinear", "one_token"), ("bilinear", "grid"), ("average", "one_token"), ("average", "grid")}
    for pool in ("bilinear", "average", "max"):
        for newline in modes:
            set_video(model, pool, newline)
            step = 1 if (pool, newline) in whole else 7
            yield f"{kind}.video.{pool}.{newline}", embeds(model, PROMPT, [pixels], ["video"])[:, ::step]
    set_video(model, "bilinear", "one_token")


def language_results(model, pixels, kind):
    greedy = {"do_sample": False, "max_new_tokens": 12}
    yield f"{kind}.gen.video", model.generate(PROMPT, images=[pixels], modalities=["video"], **greedy)
    set_video(model, "average", "grid")
    yield f"{kind}.gen.video_grid_avg", model.generate(PROMPT, images=[pixels], modalities="video", **greedy)
    set_video(model, "bilinear", "one_token")
    text = torch.tensor([[5, 6, 7, 8]])
    yield f"{kind}.gen.text", model.generate(text, do_sample=False, max_new_tokens=6)
    yield f"{kind}.loss", model(PROMPT, labels=PROMPT, images=[pixels], modalities=["video"]).loss[None]


def batch_results(model, pixels, kind):
    ids = torch.tensor([[5, 6, -200, 9, 10, 0, 0], [5, 6, 7, 8, -200, 9, 10]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7])
    for side in ("left", "right") if kind == "tied" else ("left",):
        model.config.tokenizer_padding_side = side
        _, _, new_mask, _, new_embeds, labels = model.prepare_inputs_labels_for_multimodal(
            ids, None, mask, None, ids, [pixels[:1], pixels[1:3]], ["video", "video"]
        )
        yield f"{kind}.batch.{side}.embeds", new_embeds
        yield f"{kind}.batch.{side}.mask", new_mask
        yield f"{kind}.batch.{side}.labels", labels


def special_results(model, pixels):
    model.config.tokenizer_model_max_length = 100
    yield "tied.trunc", embeds(model, PROMPT, [pixels], ["video"])
    model.config.tokenizer_model_max_length = 32768
    yield "tied.tensor4d", embeds(model, PROMPT, pixels[:1], ["image"])
    small = [np.random.RandomState(i).randint(0, 255, (20 + 8 * i, 30, 3)).astype(np.uint8) for i in (0, 1)]
    images = [Image.fromarray(small[i]).resize((300, 200 + 80 * i), Image.Resampling.BICUBIC) for i in (0, 1)]
    model.config.image_aspect_ratio = "pad"
    padded = process_images(images, model.get_vision_tower().image_processor, model.config)
    sizes = [image.size for image in images]
    ids = torch.tensor([[5, -200, 6, 7, -200, 9]])
    yield "tied.multi.pad", embeds(model, ids, list(padded), ["image", "image"], image_sizes=sizes)


def image_results(model, sizes):
    model.config.image_aspect_ratio = "anyres_max_9"
    for width, height in sizes:
        shape = max(2, height // 64), max(2, width // 64), 3
        small = np.random.RandomState(width + height).randint(0, 255, shape).astype(np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        pixels = process_images([image], model.get_vision_tower().image_processor, model.config)[0]
        name = f"img.{width}x{height}"
        yield f"{name}.npatch", torch.tensor([len(pixels)])
        yield f"{name}.pix_corner", pixels[:, :, :4, :4]
        yield f"{name}.pix_mean", pixels.mean((1, 2, 3))
        tokens = embeds(model, PROMPT, [pixels], ["image"], image_sizes=[(width, height)])
        yield f"{name}.len", torch.tensor([tokens.shape[1]])
        yield f"{name}.embeds", tokens
        yield f"{name}.embeds_sample", tokens[:, ::97]


def results(model, frames, kind):
    """(name, tensor) of everything that the golden file holds for one checkpoint."""
    pixels = model.get_vision_tower().image_processor.preprocess(frames)["pixel_values"]
    if kind == "tied":
        yield from tower_results(model, pixels)
    yield from video_results(model, pixels, kind)
    yield from language_results(model, pixels, kind)
    yield from batch_results(model, pixels, kind)
    if kind == "tied":
        yield from special_results(model, pixels)
        yield from image_results(model, [(400, 300), (1024, 899), (300, 1200), (2500, 1000)])


def belongs(name, kind):
    """Pillow before 13 resizes tall pictures otherwise, by one in 255: there is no golden array for that."""
    tall = name.startswith("img.300x1200.") and int(PIL.__version__.split(".")[0]) < 13
    return name.startswith("untied.") == (kind == "untied") and not tall


def load(folder):
    model, info = LlavaQwenForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


def check(name, actual, expected):
    assert actual.shape == expected.shape, name
    if not expected.is_floating_point():
        assert torch.equal(actual.to(expected.dtype), expected), name
        return
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= TOLERANCE, f"{name}: {error:.2e}"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the full golden files are not beside this checkout")
@pytest.mark.parametrize("kind", ["tied", "untied"])
@torch.no_grad()
def test_every_golden_array(kind):
    golden = {name: x for name, x in load_file(SHARED / "golden.safetensors").items() if belongs(name, kind)}
    model = load(SHARED / kind)
    for name, actual in results(model, np.load(SHARED / "frames.npy"), kind):
        if name in golden:
            check(name, actual, golden.pop(name))
    assert not golden, f"not computed: {sorted(golden)}"


@torch.no_grad()
def test_copied_part():
    golden = {name: x for name, x in load_file(COPY / "golden.safetensors").items() if belongs(name, "tied")}
    layout = json.loads((COPY / "layout.json").read_text())
    model = load(COPY / "tied")
    for name, actual in results(model, np.load(COPY / "frames.npz")["frames"], "tied"):
        if name in golden:
            assert list(actual.shape) == layout[name]["shape"], name
            check(name, actual.flatten()[:: layout[name]["step"]], golden.pop(name))
    assert not golden, f"not computed: {sorted(golden)}"
