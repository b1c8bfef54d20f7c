"""Images beside videos in the prompt of a transformers checkpoint."""

from itertools import groupby

import numpy as np
import pytest
import torch
from PIL import Image

import aot
from llava.model.loading import CheckpointError
from llava.video import load_video

from .test_session import session_of


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 48, 3), dtype=np.uint8))


def said(*kinds: str) -> list[dict]:
    return [{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": "What?"}]}]


def given(checkpoint, clip: str, kinds: tuple[str, ...], pictures: list[dict]) -> dict:
    """The model's inputs of a prompt that shows `kinds`."""
    videos = [load_video(clip, choose=checkpoint.processor.choose)] * kinds.count("video")
    pixels = [checkpoint.processor.inputs(video) for video in videos]
    return checkpoint.inputs(checkpoint.prompt(said(*kinds)), videos, pixels, pictures)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "internvl"])
@pytest.mark.parametrize("kinds", [("image", "video"), ("video", "image", "video"), ("image",)])
def test_an_image_stands_where_the_template_marks_it(checkpoints, family, clip, image, kinds):
    """The model reads the prompt; aot.apply shortens its videos alone."""
    checkpoint = session_of(checkpoints, family, "--num-frames", "4").checkpoint
    tiles, limits = {"crop_to_patches": True, "max_patches": 2}, {"shortest_edge": 64, "longest_edge": 8 * 8 * 36}
    picture = checkpoint.image(image, **(tiles if family == "internvl" else {"size": limits}))
    inputs = given(checkpoint, clip, kinds, [picture])
    # an image of 24x48 pixels: 3x6 tokens of 8x8 pixels, or two tiles and the whole, of 3x3 tokens each
    of_image, of_frame = (27, 9) if family == "internvl" else (18, 36)
    config = checkpoint.model.config
    seen = {config.image_token_id, getattr(config, "video_token_id", None)}
    runs = [len(list(run)) for token, run in groupby(inputs["input_ids"][0].tolist()) if token in seen]
    frames = {"qwen2_5_vl": [2 * of_frame], "qwen3_vl": [of_frame] * 2, "internvl": [of_frame] * 4}[family]
    assert runs == [count for kind in kinds for count in (frames if kind == "video" else [of_image])]
    if family == "internvl":  # three tiles of an image and four frames of a video, in the order of the prompt
        spans = {1: [], 2: [range(3, 7)], 3: [range(4), range(7, 11)]}[len(kinds)]
        assert inputs["video_frames"] == spans
        first = 4 * kinds.index("image")
        assert torch.equal(inputs["pixel_values"][first : first + 3], picture["pixel_values"])
    with torch.no_grad(), aot.apply(checkpoint.model, 0.25) as applied:
        length = checkpoint.model(**inputs).logits.shape[1]
        kept = [one.num_visual for one in applied.last]
    assert kept == [sum(frames) // 4] * kinds.count("video")
    assert length == inputs["input_ids"].shape[1] - sum(runs) + of_image + sum(kept)


def test_images_that_do_not_fit_are_refused(checkpoints, clip, image):
    checkpoint = session_of(checkpoints, "qwen3_vl", "--num-frames", "4").checkpoint
    with pytest.raises(CheckpointError, match="writes 1 marks .* for 2 videos or images"):
        given(checkpoint, clip, ("image",), [checkpoint.image(image)] * 2)
    with pytest.raises(CheckpointError, match="writes 1 marks .* for 0 videos or images"):
        given(checkpoint, clip, ("image", "video"), [])
    other = session_of(checkpoints, "llava_onevision", "--num-frames", "4").checkpoint
    with pytest.raises(ValueError, match="Images are shown to Qwen-VL and InternVL"):
        given(other, clip, ("image",), [{"pixel_values": torch.zeros(1, 3, 24, 24)}])
