"""Where a reduction begins and ends: emptied and cut caches, blocks that end too early, wrapped models, own methods."""

import threading
import types

import pytest
import torch
from transformers import DynamicCache

import aot
from aot import AOTError

from . import frames, qwen
from .conftest import batch, make_theirs, pixels, prompt
from .families import module_of, new_ids, padded, plain

SETTINGS = {"max_new_tokens": 5, "do_sample": False}
CACHED = ("onevision", "Qwen2_5_VL", "Qwen3VL", "LlavaNextVideo", "InternVL")


@pytest.fixture
def theirs():
    return make_theirs()


@pytest.fixture
def asked():
    return {**batch(prompt(5, 6, "video", 7, 8)), "pixel_values_videos": pixels(1)[None]}


def model_and_inputs(family):
    if family == "onevision":
        model = make_theirs()
        return model, {**batch(prompt(5, 6, "video", 7, 8)), "pixel_values_videos": pixels(1)[None]}
    kit = module_of(family)
    return kit.make(family), kit.batch(family, kit.prompts(family)["video"])


def text(family, length):
    generator = torch.Generator().manual_seed(length)
    row = torch.randint(1, 58, (length,), generator=generator).tolist()
    inputs = padded([row], "left")
    kinds = {"mm_token_type_ids": torch.zeros_like(inputs["input_ids"]).int()} if family.startswith("Qwen") else {}
    return {**inputs, **kinds}


def cache_of(model):
    return DynamicCache(config=model.config.get_text_config())


@pytest.mark.parametrize("family", CACHED)
def test_an_emptied_cache_is_a_new_one(family):
    model, inputs = model_and_inputs(family)
    aot.apply(model, 0.3)
    for question in (inputs, text(family, 4), text(family, 60)):
        expected = new_ids(model, question, **SETTINGS)
        used = cache_of(model)
        new_ids(model, inputs, past_key_values=used, **SETTINGS)
        used.reset()
        if used.get_seq_length():
            pytest.skip("this release of transformers sets a cache to zeros and keeps its length")
        assert torch.equal(new_ids(model, question, past_key_values=used, **SETTINGS), expected)


@pytest.mark.parametrize("family", CACHED)
def test_a_cache_that_was_cut_before_its_video_is_refused(family):
    model, inputs = model_and_inputs(family)
    aot.apply(model, 0.3)
    used = cache_of(model)
    new_ids(model, inputs, past_key_values=used, **SETTINGS)
    used.crop(1 - used.get_seq_length())  # so many are taken off, in every release
    with pytest.raises(AOTError, match="The cache was cut to 1 entries and its videos end behind"):
        model.generate(**text(family, 20), past_key_values=used, **SETTINGS)


def test_a_reduction_does_not_end_while_the_model_generates(theirs, asked):
    applied = aot.apply(theirs, 0.2)
    expected = theirs.generate(**asked, **SETTINGS)
    begun, go_on, found = threading.Event(), threading.Event(), []

    def wait(module, args):
        begun.set()
        go_on.wait(60)

    hook = theirs.lm_head.register_forward_pre_hook(wait)
    thread = threading.Thread(target=lambda: found.append(theirs.generate(**asked, **SETTINGS)))
    with pytest.raises(AOTError, match="still generates"), applied:
        thread.start()
        begun.wait(60)
    go_on.set()
    thread.join(60)
    hook.remove()
    assert torch.equal(found[0], expected)
    aot.remove(theirs)
    assert aot.apply(theirs, 0.2).last == []


def test_an_instances_own_methods_are_called_and_given_back(theirs, asked):
    calls = []

    def own(self, *args, **kwargs):
        calls.append(len(args))
        return type(self).generate(self, *args, **kwargs)

    theirs.generate = mine = types.MethodType(own, theirs)
    whole = theirs.generate(**asked, **SETTINGS)
    with aot.apply(theirs, 0.2) as applied:
        theirs.generate(**asked, **SETTINGS)
        assert len(applied.last) == 1 and len(calls) == 2
    assert theirs.__dict__["generate"] is mine
    assert torch.equal(theirs.generate(**asked, **SETTINGS), whole)


def test_a_block_may_be_entered_again(theirs, asked):
    applied = aot.apply(theirs, 0.2)
    lengths = []
    for _ in range(3):
        with applied:
            lengths.append(theirs(**asked).logits.shape[1])
        lengths.append(theirs(**asked).logits.shape[1])
    assert lengths[:2] * 3 == lengths and lengths[0] < lengths[1]


def test_a_method_that_was_kept_works_behind_the_reduction(theirs, asked):
    whole = theirs.generate(**asked, **SETTINGS)
    aot.apply(theirs, 0.2)
    kept = theirs.generate
    aot.remove(theirs)
    assert torch.equal(kept(**asked, **SETTINGS), whole)


@pytest.mark.parametrize("compiled", ["before", "after"])
@pytest.mark.parametrize("family", ["Qwen2_5_VL", "Qwen3VL"])
def test_a_compiled_tower_is_read_too(family, compiled):
    model = qwen.make(family)
    inputs = qwen.batch(family, (5, qwen.video(), 7))
    with aot.apply(model, 0.3):
        expected = model(**inputs).logits
    if compiled == "after":
        aot.apply(model, 0.3)
    model.model.visual = torch.compile(model.model.visual, backend="eager")
    aot.apply(model, 0.3)
    torch.testing.assert_close(model(**inputs).logits, expected)


@pytest.mark.parametrize("saved", ["visual", "attn"])
def test_a_tower_in_peft_is_read_too(saved):
    peft = pytest.importorskip("peft")
    model = qwen.make("Qwen2_5_VL")
    inputs = qwen.batch("Qwen2_5_VL", (5, qwen.video(), 7))
    aot.apply(model, 0.3, method="visionzip")
    expected = model(**inputs).logits
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["down_proj"], modules_to_save=[saved]))
    torch.testing.assert_close(wrapped(**inputs).logits, expected)
    aot.remove(model)  # the wrapper's copy of the tower was made while it was reduced
    aot.apply(model, 0.3, method="visionzip")
    torch.testing.assert_close(wrapped(**inputs).logits, expected)


def test_a_model_that_cannot_be_reduced_is_left_as_it_is(asked, theirs, monkeypatch):
    def fails(*_):
        raise RuntimeError("no hook today")

    monkeypatch.setattr("aot.integrations.hf_base.watch_attention", fails)
    with pytest.raises(RuntimeError, match="no hook today"):
        aot.apply(theirs, 0.2)
    assert not {"generate", "_aot_applied"} & set(vars(theirs)) and not theirs._forward_pre_hooks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in theirs.modules())


def test_frames_that_were_encoded_as_images_are_refused():
    model = frames.make("InternVL")
    inputs = frames.batch("InternVL", frames.prompts("InternVL")["video"])
    aot.apply(model, 0.3)
    found = model.get_image_features(inputs["pixel_values"])
    if not hasattr(found, "pooler_output"):
        pytest.skip("this release of transformers encodes nothing before a call")
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with pytest.raises(AOTError, match="encoded before video_frames said"):
        model(**rest, mm_encoder_outputs={"image": found})


def test_a_text_in_a_static_cache_is_answered(theirs):
    from transformers import StaticCache

    words = text("onevision", 6)

    def answer():
        cache = StaticCache(config=theirs.config.get_text_config(), max_cache_len=40)
        mask = torch.nn.functional.pad(words["attention_mask"], (0, 34))
        return theirs(**plain(words) | {"attention_mask": mask}, past_key_values=cache).logits

    expected = answer()
    aot.apply(theirs, 0.2)
    torch.testing.assert_close(answer(), expected)


@pytest.mark.parametrize("given", [None, "llava-hf/some", torch.nn.Linear, object()])
def test_what_is_no_model_is_one_sentence(given):
    for act in (aot.apply, aot.remove):
        with pytest.raises(AOTError, match="takes a model that is loaded"):
            act(given)
