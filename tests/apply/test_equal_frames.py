"""Frames that equal each other pass the towers of transformers' families once, and nothing else changes."""

import pytest
import torch

import aot
from aot import AOTError

from .conftest import FRAMES, batch, make_theirs, pixels, prompt
from .families import CLOSE, FAMILIES, module_of, plain

KIND = {"shallow and deep": {}, "keys": {"method": "visionzip"}}


def shown_again(inputs: dict) -> dict:
    """The inputs with the first frame of each video also in the place of its last one."""
    inputs = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    if "video_grid_thw" in inputs:
        grids = inputs["video_grid_thw"].tolist()
        for part, (t, h, w) in zip(
            inputs["pixel_values_videos"].split([t * h * w for t, h, w in grids]), grids, strict=True
        ):
            part.unflatten(0, (t, h * w))[-1] = part[: h * w]
    elif "video_frames" in inputs:
        for frames in inputs["video_frames"]:
            inputs["pixel_values"][frames[-1]] = inputs["pixel_values"][frames[0]]
    else:
        inputs["pixel_values_videos"][:, -1] = inputs["pixel_values_videos"][:, 0]
    return inputs


def rows_seen(model) -> list[int]:
    """Filled with what its tower gets: frames, or patches of all of them."""
    seen: list[int] = []
    tower = getattr(model.model, "visual", None) or model.model.vision_tower
    tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len((*args, *kwargs.values())[0])), with_kwargs=True
    )
    return seen


@torch.no_grad()
@pytest.mark.parametrize("settings", KIND.values(), ids=KIND)
@pytest.mark.parametrize("name", ["video", "two videos"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_frames_are_encoded_once(family, name, settings):
    kit = module_of(family)
    model, inputs = kit.make(family), shown_again(kit.batch(family, kit.prompts(family)[name]))
    with aot.apply(model, 0.5, **settings) as applied:
        expected, kept = model(**inputs).logits, applied.last
    with aot.apply(model, 0.5, **settings, tower_reuse=0) as applied:
        seen = rows_seen(model)
        torch.testing.assert_close(model(**inputs).logits, expected, **CLOSE)
        for one, other in zip(applied.last, kept, strict=True):
            assert torch.equal(one.position, other.position) and torch.equal(one.frame, other.frame)
        whole = [len(inputs[key]) for key in ("pixel_values_videos", "pixel_values") if key in inputs][0]
        whole = inputs["pixel_values_videos"].flatten(0, 1).shape[0] if family == "LlavaNextVideo" else whole
        assert seen[0] < whole and applied.tower_share < 1
    before = model(**plain(inputs)).logits  # nothing is left on the tower
    assert seen[-1] == whole and before.isfinite().all()


@torch.no_grad()
def test_equal_frames_of_llava_onevision():
    model = make_theirs()
    video = pixels(1)
    video[3:] = video[:1]
    inputs = {**batch(prompt(5, 6, "video", 7)), "pixel_values_videos": video[None]}
    with aot.apply(model, 0.3):
        expected = model(**inputs).logits
    with aot.apply(model, 0.3, tower_reuse=0) as applied:
        seen = rows_seen(model)
        torch.testing.assert_close(model(**inputs).logits, expected, **CLOSE)
        assert torch.equal(model.generate(**inputs, max_new_tokens=3)[0, :9], inputs["input_ids"][0, :9])
        assert applied.tower_share == 0.5
    assert seen == [3, 3] and FRAMES == 6


@torch.no_grad()
def test_the_settings_of_a_model_that_has_hooks_already_are_heard():
    model, video = make_theirs(), pixels(1)
    video[3:] = video[:1]
    inputs = {**batch(prompt(5, 6, "video", 7)), "pixel_values_videos": video[None]}
    aot.apply(model, 0.3)
    seen = rows_seen(model)
    for reuse in (None, 0, None):
        aot.apply(model, 0.3, tower_reuse=reuse)
        model(**inputs)
    assert seen == [6, 3, 6]


def test_patches_are_not_reused_by_every_tower():
    with pytest.raises(AOTError, match="set tower_reuse=0, leave it out, or use a Qwen-VL model or LlavaQwenForCausal"):
        aot.apply(make_theirs(), tower_reuse=0.02)
