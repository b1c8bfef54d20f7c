"""aot.apply on LLaVA-NeXT-Video and InternVL: attention of their towers, and how InternVL is told of videos."""

import copy
import sys

import pytest
import torch

import aot
from aot.compress import compress
from aot.integrations import hf_base

from .families import CLOSE, FRAMES, NEW, logits_by_hand, new_ids, plain
from .frames import SIDE, batch, by_hand, encoded, image, make, prompts, video


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FRAMES)
def test_received_attention_is_that_of_an_eager_map(family, attention, monkeypatch):
    """Of the weights that eager mode itself makes: without the class token, summed over the patches of a token."""
    model, inputs = make(family, attention), batch(family, prompts(family)["two videos"])
    tower = make(family, "eager").model.vision_tower
    layers = [layer for module in tower.modules() for layer in getattr(getattr(module, "encoder", None), "layers", ())]
    layers = layers or list(tower.encoder.layer)
    attentions = [getattr(layer, "self_attn", None) or layer.attention for layer in layers]
    module = sys.modules[type(attentions[0]).__module__]
    original, weights, keys = module.eager_attention_forward, {}, {}

    def eager(attention, query, key, *args, **kwargs):
        output, found = original(attention, query, key, *args, **kwargs)
        weights[id(attention)], keys[id(attention)] = found.mean(1).sum(1)[:, 1:], key.mean(1)[:, 1:]
        return output, found

    pixels = inputs["pixel_values"] if family == "InternVL" else inputs["pixel_values_videos"].flatten(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "eager_attention_forward", eager)
        tower(pixels, **({} if family == "InternVL" else {"output_attentions": True}))
    read = []
    monkeypatch.setattr(
        hf_base, "compress", lambda *args, **kwargs: read.append((args, kwargs)) or compress(*args, **kwargs)
    )
    aot.apply(model, 0.2, attention_power=0.5)
    model(**inputs)
    aot.apply(model, 0.2, method="visionzip")
    model(**inputs)
    used = 6 if family == "InternVL" else 5  # LLaVA-NeXT-Video's features are those before the last layer
    shallow, deep = aot.layers(used)
    first = 5 if family == "InternVL" else 4  # frames of the first video
    for number, frames in enumerate((slice(0, first), slice(first, None))):

        def of(found, layer, frames=frames):
            """(F, 9, ...) of 6x6 patches."""
            values = found[id(attentions[layer])][frames]
            return values.unflatten(1, (3, 2, 3, 2)).sum((2, 4)).flatten(1, 2)

        found, extras = (read[n][1]["extras"] for n in (number, 2 + number))
        torch.testing.assert_close(found["shallow"], of(weights, shallow), **CLOSE)
        torch.testing.assert_close(found["deep"], of(weights, deep), **CLOSE)
        torch.testing.assert_close(extras["attention_last"], of(weights, used - 1), **CLOSE)
        torch.testing.assert_close(extras["keys"], of(keys, used - 1) / 4, **CLOSE)


def test_images_are_videos_only_where_one_says_so():
    """The same pixels: all images, one video of three tiles, two videos next to each other."""
    model = make("InternVL")
    inputs = batch("InternVL", (5, image(), 6, video(4), 7, image(), 8))
    length, unpatched = inputs["input_ids"].shape[1], copy.deepcopy(model)
    given = plain(inputs)
    with aot.apply(model, 0.25) as applied:
        assert torch.equal(model(**given).logits, unpatched(**given).logits) and applied.last == []
        assert torch.equal(model(**given, video_frames=[]).logits, unpatched(**given).logits)
        for frames, kept in (([range(2, 6)], [9]), ([range(3, 6)], [6]), ([range(2, 4), range(4, 6)], [4, 4])):
            logits = model(**given, video_frames=frames).logits
            assert [one.num_visual for one in applied.last] == kept
            assert logits.shape[1] == length - sum(one.tokens_before for one in applied.last) + sum(kept)
            call = by_hand(unpatched, {**given, "video_frames": frames}, applied.last)
            torch.testing.assert_close(logits[0], logits_by_hand(unpatched, call), **CLOSE)
            assert new_ids(model, given, video_frames=frames).shape[1] == 6
        # a call that says nothing is not answered by the call before it
        assert torch.equal(model(**given).logits, unpatched(**given).logits)


@pytest.mark.parametrize(
    "frames", [[range(2, 9)], [range(2, 2)], [range(3, 5), range(2, 3)], [range(0, 4, 2)], [4], [(0, 4)]]
)
def test_frames_that_are_no_ranges_of_tiles_are_refused(frames):
    model, inputs = make("InternVL"), plain(batch("InternVL", (5, video(4), 6)))
    aot.apply(model, 0.2)
    for call in (model, model.generate):
        with pytest.raises(aot.AOTError, match="give for each video the range"):
            call(**inputs, video_frames=frames)
    assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]


def test_frames_without_pixels_are_refused():
    model, inputs = make("InternVL"), plain(batch("InternVL", (5, video(4), 6)))
    aot.apply(model, 0.2)
    del inputs["pixel_values"]
    for call in (model, model.generate):
        with pytest.raises(aot.AOTError, match="without pixel_values"):
            call(**inputs, video_frames=[range(4)])


@pytest.mark.skipif(NEW, reason="transformers 5 repeats each prompt with all its videos")
def test_several_videos_of_a_prompt_are_not_repeated():
    """LLaVA-NeXT-Video of transformers 4 repeats videos one by one, so that the second row would see the wrong ones."""
    model, inputs = make("LlavaNextVideo"), batch("LlavaNextVideo", prompts("LlavaNextVideo")["two videos"])
    mixed = model._expand_inputs_for_generation(2, **inputs)[1]["pixel_values_videos"]
    assert torch.equal(mixed[0], mixed[1])  # which are to be different
    aot.apply(model, 0.2)
    with pytest.raises(aot.AOTError, match="cannot repeat"):
        new_ids(model, inputs, num_beams=2)


def test_the_tower_is_read_by_the_layer_in_use():
    """InternVL of transformers 5 with features of an earlier layer: importance is of the layers before it."""
    if not NEW:
        pytest.skip("transformers 4 has features of the last layer only")
    model = make("InternVL")
    model.config.vision_feature_layer = model.model.config.vision_feature_layer = -2
    inputs = batch("InternVL", prompts("InternVL")["video"])
    with aot.apply(model, 1.0):
        found = model(**inputs).logits
    torch.testing.assert_close(found, model(**plain(inputs)).logits, **CLOSE)
    assert inputs["pixel_values"].shape[-1] == SIDE and len(encoded(model, plain(inputs))) == 4
