"""aot.apply on transformers' LLaVA-OneVision: the tokens of our own path, and no trace after remove."""

import copy
import subprocess
import sys

import pytest
import torch
import transformers

import aot
from aot import registry

from .conftest import FRAMES, PLACEHOLDERS, VIDEO, batch, make_ours, make_theirs, pixels, prompt

GREEDY = {"max_new_tokens": 5, "do_sample": False}
ASKED = prompt(5, 6, 7, "video", 9, 10, 11)
SETTINGS = [
    {"retention": 0.1},
    {"retention": 0.37, "clips": "dynamic", "global_ratio": 1.0},
    {"retention": 1.0},
    {"max_tokens": 37},
    {"config": aot.AOTConfig.preset("released", num_anchors=30)},
    {"retention": 0.25, "method": "random"},
    {"retention": 0.25, "method": "visionzip"},  # reads the last layer's attention and keys
]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def ask_ours(model, ids, videos, **settings):
    """Ids in which every run of placeholders becomes one mark, for our model; its generated ids."""
    marked, count = [], 0
    for token in ids:
        if token != VIDEO:
            marked.append(token)
            continue
        if count % PLACEHOLDERS == 0:
            marked.append(-200)
        count += 1
    return model.generate(torch.tensor([marked]), images=list(videos), modalities="video", **{**GREEDY, **settings})


def new_ids(model, rows, videos, **settings):
    """What the model adds to a batch of prompts."""
    inputs = batch(*rows)
    pixels = {} if videos is None else {"pixel_values_videos": videos}
    answer = model.generate(**inputs, **pixels, **{**GREEDY, **settings})
    assert torch.equal(answer[:, : inputs["input_ids"].shape[1]].unique_consecutive(dim=0), inputs["input_ids"])
    return answer[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize(
    "settings", SETTINGS, ids=["tenth", "dynamic", "all", "number", "released", "random", "visionzip"]
)
def test_same_tokens_and_logits_as_our_own_path(theirs, ours, settings):
    video = pixels(1)
    marked = torch.tensor([[5, 6, 7, -200, 9, 10, 11]])
    with aot.apply(theirs, **settings) as one, aot.apply(ours, **settings) as other:
        logits = theirs(**batch(ASKED), pixel_values_videos=video[None]).logits
        expected = ours(marked, images=[video], modalities="video").logits
        (kept,), (wanted,) = one.last, other.last
        for name in ("frame", "position", "kind"):
            assert torch.equal(getattr(kept, name), getattr(wanted, name)), name
        # one path takes the softmax's denominators from fused attention, the other computes them: float32 rounding
        for name in ("mass", "tokens"):
            torch.testing.assert_close(getattr(kept, name), getattr(wanted, name), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        assert logits.shape[1] == 6 + len(kept.tokens)
        ids = new_ids(theirs, [ASKED], video[None])
        assert torch.equal(ids, ask_ours(ours, ASKED, video[None]))
        assert torch.equal(ids, new_ids(theirs, [ASKED], video[None], use_cache=False))


def test_a_method_that_needs_what_the_tower_does_not_give_is_refused(theirs, monkeypatch):
    method = registry.Method("deeper", lambda video, config: None, requires=("keys", "depth"))
    monkeypatch.setitem(registry.METHODS, "deeper", method)
    with pytest.raises(aot.AOTError, match="needs 'depth', which this vision tower cannot give"):
        aot.apply(theirs, method="deeper")


def test_settings_may_be_a_dict(theirs):
    settings = aot.AOTConfig(retention=0.3, change_power=0.0)
    with aot.apply(theirs, config=settings.to_dict()) as applied:
        assert applied.config == settings


def test_budget_is_exact_and_the_prompt_that_much_shorter(theirs):
    with aot.apply(theirs) as applied:
        output = theirs(**batch(ASKED), pixel_values_videos=pixels(2)[None], use_cache=True)
        assert applied.last[0].num_visual == (PLACEHOLDERS - 1) // 10 == 21
        assert applied.last[0].bound == "retention"
    assert output.past_key_values.get_seq_length() == output.logits.shape[1] == 6 + 21 + 1


@pytest.mark.parametrize("which", ["theirs", "ours"])
def test_a_device_is_asked_for_bad_values_when_the_prompt_is_made(request, monkeypatch, which):
    """As on a GPU, where `compress` waits for nothing: the prompt that takes the tokens has to wait, and tells."""
    monkeypatch.setattr("aot.validation.HOST_DEVICES", ())
    model, video = request.getfixturevalue(which), pixels(2)
    projector = model.model.multi_modal_projector if which == "theirs" else model.model.mm_projector

    def ask():
        if which == "theirs":
            return new_ids(model, [ASKED], video[None])
        return model.generate(torch.tensor([[5, -200, 9]]), images=[video], modalities="video", **GREEDY)

    value = 0.0
    projector.register_forward_hook(lambda module, args, output: output.index_fill(0, torch.tensor(3), value))
    with aot.apply(model):
        ask()
        value = torch.nan
        with pytest.raises(aot.AOTError, match="^features cannot be used at 36 of 216 places, first in frame 3 at"):
            ask()


def test_ragged_batch_equals_each_prompt_alone(theirs):
    rows = [prompt(5, 6, "video", 7), prompt(8, "video", 9, "video", 10, 11, 12), prompt(20, 21, 22, 23)]
    videos = torch.stack([pixels(seed) for seed in (1, 2, 3)])
    aot.apply(theirs, 0.2)
    together = new_ids(theirs, rows, videos)
    for number, share in enumerate((videos[:1], videos[1:], None)):
        assert torch.equal(together[number : number + 1], new_ids(theirs, [rows[number]], share))
    assert len({tuple(row.tolist()) for row in together}) == 3


def test_ragged_batch_of_logits_padded_on_the_right(theirs):
    rows = [prompt(5, "video", 7, 8), prompt(8, "video", 9)]
    videos = torch.stack([pixels(seed) for seed in (1, 2)])
    aot.apply(theirs, 0.2)
    together = theirs(**batch(*rows, side="right"), pixel_values_videos=videos).logits
    for number, row in enumerate(rows):
        alone = theirs(**batch(row), pixel_values_videos=videos[number : number + 1]).logits[0]
        torch.testing.assert_close(together[number, -len(alone) :], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 1}])
def test_beams_go_as_in_our_own_path(theirs, ours, settings):
    rows, videos = [ASKED, prompt(8, "video", 9, 10, 11, 12, 13)], torch.stack([pixels(1), pixels(2)])
    aot.apply(theirs, 0.15)
    aot.apply(ours, 0.15)
    found = new_ids(theirs, rows, videos, **settings)
    for number, row in enumerate(rows):
        assert torch.equal(found[number : number + 1], ask_ours(ours, row, videos[number : number + 1], **settings))


def test_a_cache_from_the_turn_before_is_gone_on_with(theirs):
    aot.apply(theirs, 0.15)
    video, more = pixels(1)[None], [30, 31, 32]
    first = theirs.generate(
        **batch(ASKED), pixel_values_videos=video, return_dict_in_generate=True, use_cache=True, **GREEDY
    )
    longer = torch.cat([first.sequences, torch.tensor([more])], dim=1)
    again = theirs.generate(
        input_ids=longer, attention_mask=torch.ones_like(longer), past_key_values=first.past_key_values, **GREEDY
    )
    fresh = theirs.generate(
        input_ids=longer, attention_mask=torch.ones_like(longer), pixel_values_videos=video, **GREEDY
    )
    assert torch.equal(again, fresh)


def test_images_and_text_are_not_touched(theirs):
    image = {"pixel_values": pixels(5, 3)[None], "image_sizes": torch.tensor([[96, 192]])}
    still, text = batch(prompt(5, "image", 6, 7)), batch([5, 6, 7, 8])
    before = theirs(**still, **image).logits, theirs(**text).logits
    both = batch(prompt(5, "image", 6, "video", 7))
    untouched = theirs(**both, **image, pixel_values_videos=pixels(1)[None]).logits
    with aot.apply(theirs, 0.1):
        assert torch.equal(theirs(**still, **image).logits, before[0])
        assert torch.equal(theirs(**text).logits, before[1])
        # what stands in front of the video, the image with it, is read as before
        reduced = theirs(**both, **image, pixel_values_videos=pixels(1)[None]).logits
        assert reduced.shape[1] == untouched.shape[1] - PLACEHOLDERS + 22
        front = 1 + before[0].shape[1] - 3 + 1
        torch.testing.assert_close(reduced[:, :front], untouched[:, :front], rtol=1e-4, atol=1e-5)
        answer = new_ids(theirs, [prompt(5, "image", 6, "video", 7)], pixels(1)[None], **image)
    with aot.apply(theirs, 1.0):
        whole = theirs(**both, **image, pixel_values_videos=pixels(1)[None]).logits
    assert torch.equal(whole, untouched) and answer.shape == (1, 5)


def test_remove_leaves_no_trace(theirs):
    video = pixels(1)[None]
    inputs = batch(ASKED, prompt(8, "video", 9))
    videos = torch.cat([video, pixels(2)[None]])

    def outputs():
        features = theirs.get_video_features(video, vision_feature_layer=-1, vision_feature_select_strategy="full")
        features = getattr(features, "pooler_output", features)
        return theirs(**inputs, pixel_values_videos=videos).logits, features, new_ids(theirs, [ASKED], video)

    parts = [theirs, *theirs.modules()]
    before = outputs()
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks), set(part.__dict__)) for part in parts]
    aot.apply(theirs, 0.1)
    during = outputs()
    aot.apply(theirs, 0.5)
    aot.remove(theirs)
    aot.remove(theirs)
    after = outputs()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(before[1], during[1]) and before[0].shape != during[0].shape
    assert hooks == [(len(part._forward_hooks), len(part._forward_pre_hooks), set(part.__dict__)) for part in parts]


def test_two_models_keep_their_own_settings(theirs, weights):
    other, third = make_theirs(), make_theirs()
    video = pixels(1)[None]
    aot.apply(theirs, 0.1)
    aot.apply(other, 0.5)
    lengths = [m(**batch(ASKED), pixel_values_videos=video).logits.shape[1] for m in (theirs, other, third)]
    assert lengths == [6 + 22, 6 + 109, 6 + PLACEHOLDERS]
    copied = copy.deepcopy(theirs)
    aot.remove(theirs)
    lengths = [m(**batch(ASKED), pixel_values_videos=video).logits.shape[1] for m in (theirs, copied)]
    assert lengths == [6 + PLACEHOLDERS, 6 + 22]
    aot.remove(copied)
    assert copied(**batch(ASKED), pixel_values_videos=video).logits.shape[1] == 6 + PLACEHOLDERS


def test_our_models_from_one_configuration_keep_their_own_settings(theirs):
    first = make_ours(theirs)
    second = type(first)(first.config).eval()
    before = first.config
    with aot.apply(first, 0.1), aot.apply(second, 0.5):
        assert first.config is first.model.config and first.config is not second.config
        assert (first.config.aot.retention, second.config.aot.retention) == (0.1, 0.5)
        assert getattr(before, "aot", None) is None
    assert first.config.aot is None and second.config.aot is None


def test_our_model_before_and_after(ours):
    marked, video = torch.tensor([[5, 6, 7, -200, 9]]), pixels(1)
    plain = ours(marked, images=[video], modalities="video").logits
    ours.config.aot = {"retention": 0.5}
    half = ours(marked, images=[video], modalities="video").logits
    aot.apply(ours, 0.1)
    assert ours(marked, images=[video], modalities="video").logits.shape[1] == 4 + 22
    aot.remove(ours)
    assert torch.equal(ours(marked, images=[video], modalities="video").logits, half)
    ours.config.aot = None
    assert torch.equal(ours(marked, images=[video], modalities="video").logits, plain)


def test_blocks_inside_each_other(theirs):
    with aot.apply(theirs, 0.5) as outer:
        with pytest.raises(RuntimeError, match="on the way"), aot.apply(theirs, 0.1) as inner:
            theirs(**batch(ASKED), pixel_values_videos=pixels(1)[None])
            assert inner.last[0].num_visual == 21
            raise RuntimeError("on the way")
        theirs(**batch(ASKED), pixel_values_videos=pixels(1)[None])
        assert outer.last[0].num_visual == 108
    assert theirs(**batch(ASKED), pixel_values_videos=pixels(1)[None]).logits.shape[1] == 6 + PLACEHOLDERS


def test_labels_are_shortened_with_the_prompt(theirs, ours):
    inputs = batch(ASKED)
    labels = inputs["input_ids"].clone()
    labels[labels == VIDEO] = -100
    marked = torch.tensor([[5, 6, 7, -200, 9, 10, 11]])
    aot.apply(theirs, 0.1)
    aot.apply(ours, 0.1)
    loss = theirs(**inputs, pixel_values_videos=pixels(1)[None], labels=labels).loss
    expected = ours(marked, images=[pixels(1)], modalities="video", labels=marked.clone()).loss
    torch.testing.assert_close(loss, expected)


def test_prompts_and_videos_that_do_not_match(theirs):
    aot.apply(theirs)
    one = pixels(1)[None]
    with pytest.raises(aot.AOTError, match="placeholders, which does not fit 1 videos"):
        theirs(**batch(ASKED[:20]), pixel_values_videos=one)
    with pytest.raises(aot.AOTError, match="does not fit 2 videos"):
        theirs(**batch(ASKED), pixel_values_videos=torch.cat([one, one]))
    with pytest.raises(aot.AOTError, match="does not fit 1 videos"):  # never one video for two prompts
        theirs(**batch(ASKED, ASKED), pixel_values_videos=one)
    with pytest.raises(aot.AOTError, match="input_ids"):
        embeds = theirs.get_input_embeddings()(batch(ASKED)["input_ids"])
        theirs(inputs_embeds=embeds, pixel_values_videos=one)


def test_assisted_generation_is_exact_or_refused(theirs):
    """transformers 5 takes rejected tokens off the cache by their number, transformers 4 by the whole length."""
    aot.apply(theirs)
    row = prompt(5, 6, "video", *[7, 8, 9, 7, 8] * 4)
    inputs = {**batch(row), "pixel_values_videos": pixels(1)[None], "do_sample": False, "max_new_tokens": 12}
    inputs["eos_token_id"] = 297
    plain = theirs.generate(**inputs)
    if int(transformers.__version__.split(".")[0]) >= 5:
        assert torch.equal(theirs.generate(**inputs, prompt_lookup_num_tokens=3), plain)
    else:
        with pytest.raises(aot.AOTError, match="assisted"):
            theirs.generate(**inputs, prompt_lookup_num_tokens=3)


def test_a_static_cache_is_refused(theirs):
    aot.apply(theirs)
    inputs = {**batch(ASKED), "pixel_values_videos": pixels(1)[None], **GREEDY}
    with pytest.raises(aot.AOTError, match="static"):
        theirs.generate(**inputs, cache_implementation="static", disable_compile=True)


def test_models_and_settings_that_do_not_fit(theirs):
    with pytest.raises(aot.AOTError, match="does not know Linear"):
        aot.apply(torch.nn.Linear(2, 2))
    with pytest.raises(aot.AOTError, match="Unknown setting retension"):
        aot.apply(theirs, retension=0.1)
    with pytest.raises(aot.AOTError, match="retention is 0"):
        aot.apply(theirs, 0)
    with pytest.raises(aot.AOTError, match="either a whole config"):
        aot.apply(theirs, 0.1, config=aot.AOTConfig())
    with pytest.raises(aot.AOTError, match="either a whole config"):
        aot.apply(theirs, config=aot.AOTConfig(), epsilon=0.5)
    with pytest.raises(aot.AOTError, match="inside the language model"):
        aot.apply(theirs, 0.5, method="fastv")
    with pytest.raises(aot.AOTError, match="config is a str"):
        aot.apply(theirs, config="released")
    assert theirs(**batch(ASKED), pixel_values_videos=pixels(1)[None]).logits.shape[1] == 6 + PLACEHOLDERS


def test_frames_of_another_number(theirs):
    aot.apply(theirs, 0.1)
    for frames in (1, FRAMES + 3):
        row = prompt(5, "video", 6, frames=frames)
        logits = theirs(**batch(row), pixel_values_videos=pixels(1, frames)[None]).logits
        assert logits.shape[1] == 2 + frames * 36 // 10 + 1


def test_importing_aot_imports_no_transformers():
    code = (
        "import sys, aot; aot.apply; sys.exit(any(m.split('.')[0] in ('transformers', 'llava') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_was_there_before_comes_back_however_often_one_applies(ours):
    before = ours.config.aot
    for retention in (0.1, 0.2, 0.3):
        aot.apply(ours, retention)
    assert ours.config.aot.retention == 0.3
    aot.remove(ours)
    assert ours.config.aot == before


@pytest.mark.parametrize("name", ["encode_video", "video_tokens"])
def test_half_of_our_own_path_is_none(name):
    model = type("Half", (torch.nn.Module,), {name: lambda self: None})()
    with pytest.raises(aot.AOTError, match="aot.apply does not know Half"):
        aot.apply(model)
