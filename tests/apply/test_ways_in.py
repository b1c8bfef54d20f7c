"""aot.apply under wrappers, with prompts in pieces, with other caches and towers."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F

import aot
from aot.integrations import hf_onevision, kv_cache
from aot.integrations.kv_cache import cache_name, take_cache

from .conftest import TEXT, VISION, batch, make_theirs, pixels, prompt
from .families import reads_in_pieces

GREEDY = {"max_new_tokens": 5, "do_sample": False}
ASKED = prompt(5, 6, 7, "video", 9, 10, 11)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def name_of(model) -> str:
    return cache_name(type(model).forward)


def new_ids(model, rows, videos=None, **settings):
    inputs = batch(*rows)
    brought = {} if videos is None else {"pixel_values_videos": videos}
    return model.generate(**inputs, **brought, **{**GREEDY, **settings})[:, inputs["input_ids"].shape[1] :]


@pytest.mark.skipif(not reads_in_pieces(), reason="this release of transformers loses videos of prompts in pieces")
@pytest.mark.parametrize("size", [3, 50, 217, 1000])
def test_a_prompt_in_pieces_is_answered_as_a_whole(theirs, size):
    aot.apply(theirs, 0.2)
    rows = [ASKED, prompt(8, "video", 9, "video", 10, 11, 12), prompt(20, 21, 22, 23)]
    videos = torch.stack([pixels(seed) for seed in (1, 2, 3)])
    assert torch.equal(new_ids(theirs, rows, videos, prefill_chunk_size=size), new_ids(theirs, rows, videos))
    ends = [prompt(5, "video")]
    assert torch.equal(new_ids(theirs, ends, videos[:1], prefill_chunk_size=size), new_ids(theirs, ends, videos[:1]))
    beams = {"num_beams": 3}
    whole = new_ids(theirs, rows[:2], videos, **beams)
    assert torch.equal(new_ids(theirs, rows[:2], videos, prefill_chunk_size=size, **beams), whole)


@pytest.mark.skipif(reads_in_pieces(), reason="this release of transformers reads videos in pieces")
def test_pieces_that_lose_the_video_are_refused(theirs):
    aot.apply(theirs, 0.2)
    for size in (3, 1000):
        with pytest.raises(aot.AOTError, match="prefill_chunk_size"):
            new_ids(theirs, [ASKED], pixels(1)[None], prefill_chunk_size=size)


def test_a_turn_in_pieces_behind_a_video_is_refused(theirs):
    aot.apply(theirs, 0.2)
    ids = batch(ASKED)
    first = theirs.generate(**ids, pixel_values_videos=pixels(1)[None], return_dict_in_generate=True, **GREEDY)
    longer = torch.cat([first.sequences, torch.tensor([[30, 31]])], dim=1)
    cache = {name_of(theirs): first[name_of(theirs)]}
    with pytest.raises(aot.AOTError, match="leave prefill_chunk_size out"):
        theirs.generate(longer, attention_mask=torch.ones_like(longer), prefill_chunk_size=2, **cache, **GREEDY)


def test_a_new_video_in_a_later_turn(theirs):
    """transformers 4 drops the pixels of a later turn, which must not pass for an answer."""
    aot.apply(theirs, 0.2)
    videos = torch.stack([pixels(1), pixels(2)])
    first = theirs.generate(**batch(ASKED), pixel_values_videos=videos[:1], return_dict_in_generate=True, **GREEDY)
    longer = torch.cat([first.sequences, torch.tensor([prompt(8, "video", 9, 10)])], dim=1)
    asked = {"input_ids": longer, "attention_mask": torch.ones_like(longer), **GREEDY}
    later = {**asked, "pixel_values_videos": videos[1:], name_of(theirs): first[name_of(theirs)]}
    if "mm_encoder_outputs" in inspect.signature(type(theirs).forward).parameters:
        assert torch.equal(theirs.generate(**later), theirs.generate(**asked, pixel_values_videos=videos))
    else:
        with pytest.raises(aot.AOTError, match="came without it"):
            theirs.generate(**later)


def test_a_step_whose_cache_is_not_known_is_refused(theirs):
    from transformers import DynamicCache

    name = name_of(theirs)
    aot.apply(theirs, 0.2)
    inputs = batch(ASKED)
    cache = theirs(**inputs, pixel_values_videos=pixels(1)[None], use_cache=True)[name]
    longer = torch.cat([inputs["input_ids"], torch.tensor([[40]])], dim=1)
    step = {"input_ids": longer[:, -1:], "attention_mask": torch.ones_like(longer)}
    forgetful = copy.deepcopy(cache)
    del forgetful._aot_prompt
    for wrong in ({}, {name: DynamicCache()}, {name: forgetful}, {"kv": cache}):
        with pytest.raises(aot.AOTError, match="its cache does not know"):
            theirs(**step, **wrong)
    with pytest.raises(aot.AOTError, match="came without it"):  # the rest of the prompt once more
        theirs(longer[:, 20:], **{name: copy.deepcopy(forgetful)})
    with pytest.raises(aot.AOTError, match="The cache is a tuple"):
        theirs(**step, **{name: ((cache, cache),)})
    # on our side of the cache nothing is refused
    whole = theirs(input_ids=longer, attention_mask=step["attention_mask"], pixel_values_videos=pixels(1)[None]).logits
    torch.testing.assert_close(theirs(**step, **{name: cache}).logits[:, -1], whole[:, -1], rtol=1e-4, atol=1e-4)


def test_only_the_name_that_forward_has_is_used():
    """A release without the old name, and one that knows neither."""

    def newer(cache=None):
        pass

    def older(past_key_values=None):
        pass

    def unknown(key_values=None):
        pass

    assert (cache_name(newer), cache_name(older)) == ("cache", "past_key_values")
    with pytest.raises(aot.AOTError, match="install one below"):
        cache_name(unknown)
    with pytest.raises(aot.AOTError, match="The cache is a dict"):
        take_cache({"cache": {"a": 1}})
    assert kv_cache.NAMES[0] == "cache" and take_cache({}) is None


def test_a_release_with_another_name_is_refused_at_once(theirs, monkeypatch):
    monkeypatch.setattr(kv_cache, "NAMES", ("some_other_name",))
    kv_cache.cache_name.cache_clear()
    with pytest.raises(aot.AOTError, match="release of transformers"):
        aot.apply(theirs)
    assert theirs(**batch(ASKED), pixel_values_videos=pixels(1)[None]).logits.shape[1] == len(ASKED)


class Wrapper(torch.nn.Module):
    """As PEFT's and others: the model somewhere inside, and calls passed on."""

    def __init__(self, model):
        super().__init__()
        self.base_model = torch.nn.ModuleDict({"model": model})

    def forward(self, **kwargs):
        return self.base_model["model"](**kwargs)


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [compiled, torch.nn.DataParallel, Wrapper], ids=["compile", "parallel", "peft"])
def test_wrappers_come_after(theirs, ours, wrap):
    for model in (theirs, ours):
        with pytest.raises(aot.AOTError, match=f"Give aot.apply the {type(model).__name__} inside this"):
            aot.apply(wrap(model))
        with pytest.raises(aot.AOTError, match="inside this"):
            aot.remove(wrap(model))
    if wrap is compiled and torch.__version__ < "2.5":
        return  # torch 2.4 cannot compile this model of transformers 4.57 without aot.apply either
    inputs = {**batch(ASKED), "pixel_values_videos": pixels(1)[None]}
    aot.apply(theirs, 0.2)
    wrapped = wrap(theirs)
    torch.testing.assert_close(wrapped(**inputs).logits, theirs(**inputs).logits, rtol=1e-4, atol=1e-4)
    assert wrapped(**inputs).logits.shape[1] == 6 + 44


def test_a_call_of_our_model_without_videos_has_none(ours):
    applied, text = aot.apply(ours, 0.2), torch.tensor([[5, 6, 7]])
    for call in (ours, ours.generate):
        ours(torch.tensor([[5, -200, 9]]), images=[pixels(1)], modalities="video")
        assert len(applied.last) == 1
        call(text)
        assert applied.last == [] and applied.seconds == 0


@pytest.mark.skipif(torch.__version__ < "2.5", reason="torch 2.4 cannot compile this model of transformers 4.57")
def test_a_compiled_model_goes_on_from_its_cache(theirs):
    aot.apply(theirs, 0.2)
    expected = new_ids(theirs, [ASKED], pixels(1)[None], max_new_tokens=2)
    theirs.compile(backend="eager")
    assert torch.equal(new_ids(theirs, [ASKED], pixels(1)[None], max_new_tokens=2), expected)


def test_low_precision_and_training_mode(theirs):
    inputs = {**batch(ASKED), "pixel_values_videos": pixels(1)[None]}
    aot.apply(theirs, 0.2)
    expected = theirs(**inputs).logits
    assert torch.equal(theirs.train()(**inputs).logits, expected)  # no dropout in these configurations
    with torch.enable_grad():
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == 299, -100)
        theirs(**inputs, labels=labels).loss.backward()
    assert all(p.grad is not None for p in theirs.model.language_model.layers.parameters())
    theirs.eval().to(torch.bfloat16)
    low = theirs(**{**inputs, "pixel_values_videos": inputs["pixel_values_videos"].bfloat16()}).logits
    assert low.dtype == torch.bfloat16 and low.shape == expected.shape and bool(low.isfinite().all())


def test_all_tokens_are_the_model_itself_under_autocast(theirs):
    """Its newline too, which stays in float32 beside features in bfloat16."""
    inputs = {**batch(ASKED), "pixel_values_videos": pixels(1)[None]}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = theirs(**inputs).logits
        aot.apply(theirs, 1.0)
        assert torch.equal(theirs(**inputs).logits, expected)


def test_all_tokens_have_the_gradients_of_the_model_itself(theirs):
    """Of tower, projector and newline as well; and a trained model can be copied."""
    inputs = {**batch(ASKED), "pixel_values_videos": pixels(1)[None]}
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == 299, -100)
    grads = []
    with torch.enable_grad():
        for _ in range(2):
            theirs.zero_grad()
            theirs(**inputs, labels=labels).loss.backward()
            grads.append({name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
            aot.apply(theirs, 1.0)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)
    copy.deepcopy(theirs)


def test_several_sequences_of_one_prompt(theirs):
    aot.apply(theirs, 0.2)
    found = new_ids(theirs, [ASKED], pixels(1)[None], num_beams=3, num_return_sequences=3)
    assert torch.equal(found[:1], new_ids(theirs, [ASKED], pixels(1)[None], num_beams=3)) and len(found) == 3


def test_a_sliding_window_and_a_static_cache_given_along(monkeypatch):
    from transformers import StaticCache

    sliding = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    for name, value in sliding.items():
        monkeypatch.setitem(TEXT, name, value)
    model = make_theirs()
    assert "sliding_attention" in model.config.text_config.layer_types
    aot.apply(model, 0.2)
    videos = torch.stack([pixels(1), pixels(2)])
    rows = [ASKED, prompt(8, "video", 9, 10, 11, 12, 13)]
    together = new_ids(model, rows, videos)
    assert torch.equal(together, new_ids(model, rows, videos, use_cache=False))
    assert torch.equal(together[:1], new_ids(model, rows[:1], videos[:1]))
    for name in sliding:
        monkeypatch.delitem(TEXT, name)
    model = make_theirs()
    aot.apply(model, 0.2)
    inputs = {**batch(ASKED), "pixel_values_videos": videos[:1]}
    static = StaticCache(config=model.config.text_config, max_cache_len=400)
    logits = model(**inputs, **{name_of(model): static}).logits
    torch.testing.assert_close(logits, model(**inputs).logits, rtol=1e-4, atol=1e-4)


def test_an_assistant_model_changes_nothing(theirs):
    aot.apply(theirs, 0.2)
    video = pixels(1)[None]
    plain = new_ids(theirs, [ASKED], video)
    assert torch.equal(new_ids(theirs, [ASKED], video, assistant_model=make_theirs()), plain)


def test_the_class_token_of_a_clip_tower_is_left_out():
    """Attention received by patches against an eager map of the tower itself."""
    from transformers import CLIPVisionConfig, LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config

    config = LlavaOnevisionConfig(
        vision_config=CLIPVisionConfig(**VISION, attn_implementation="eager"),
        text_config=Qwen2Config(**TEXT),
        image_token_index=298,
        video_token_index=299,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.15)
    model.set_attn_implementation("eager")
    aot.apply(model, 0.2)
    video = pixels(1)
    inner = model.model
    call = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}  # 4.57 has no defaults
    original = type(inner).get_video_features
    (encoded,) = hf_onevision.FAMILY.encode(inner, original, (video[None],), call, ("shallow", "deep"))[1]
    maps = inner.vision_tower(video, output_attentions=True).attentions
    shallow, deep = aot.layers(4)  # of five, the last is not used
    for name, layer in (("shallow", shallow), ("deep", deep)):
        received = maps[layer].float().sum(2).mean(1)[:, 1:]  # from every query, the class token's too
        ratio = encoded.outputs[name] / received
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=1e-5)
        assert encoded.outputs[name].shape == (len(video), 144)
    assert encoded.features.shape[:2] == (len(video), 144)
    logits = model(**batch(ASKED), pixel_values_videos=video[None]).logits
    assert F.softmax(logits, -1).isfinite().all() and logits.shape[1] == 6 + 44


@pytest.mark.parametrize("applied_first", [True, False])
def test_importance_is_that_of_a_tower_with_adapters(theirs, applied_first):
    """Adapters take the place of a layer's projections, before or after aot.apply, and may be merged into it."""
    peft = pytest.importorskip("peft")
    inputs = {**batch(ASKED), "pixel_values_videos": pixels(1)[None]}
    settings = {"retention": 0.2, "method": "visionzip"}
    adapters = peft.LoraConfig(target_modules=r".*vision_tower.*[qk]_proj", init_lora_weights=False)
    if applied_first:
        aot.apply(theirs, **settings)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(theirs, adapters).eval()
    applied = aot.apply(theirs, **settings)
    adapted(**inputs)
    (kept,) = applied.last
    merged = adapted.merge_and_unload()
    merged(**inputs)
    (kept_by_merged,) = applied.last
    aot.remove(merged)
    applied = aot.apply(merged, **settings)
    merged(**inputs)
    (expected,) = applied.last
    for found in (kept, kept_by_merged):
        assert torch.equal(found.frame, expected.frame) and torch.equal(found.position, expected.position)
