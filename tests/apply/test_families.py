"""aot.apply on transformers' video families: prompts spliced by hand on a plain model, and no trace after remove."""

import copy

import pytest
import torch

import aot
from aot.compress import compress
from aot.integrations import hf_base
from aot.registry import get_method

from .families import (
    CACHE,
    CLOSE,
    FAMILIES,
    GREEDY,
    IMAGE,
    NEW,
    START,
    VIDEO,
    close,
    greedy_by_hand,
    kept_places,
    logits_by_hand,
    module_of,
    new_ids,
    plain,
)

PROMPTS = ("video", "two videos", "image and video", "video and image")
ONCE = () if NEW else ("Qwen3VL", "Qwen3VLMoe", "InternVL")  # cannot repeat a prompt with a video
TEXT = (20, 21, 22, 23, 24)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def kit(family):
    return module_of(family)


@pytest.fixture
def traced(monkeypatch):
    """What became of the videos of all calls, with traces."""
    found = []

    def tracing(*args, **kwargs):
        found.append(compress(*args, **{**kwargs, "trace": True}))
        return found[-1]

    monkeypatch.setattr(hf_base, "compress", tracing)
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_all_tokens_are_the_model_itself(family, kit, attention, prompt):
    model, inputs = kit.make(family, attention), kit.batch(family, kit.prompts(family)[prompt])
    before = model(**plain(inputs)).logits, new_ids(model, plain(inputs))
    with aot.apply(model, 1.0) as applied:
        torch.testing.assert_close(model(**inputs).logits, before[0], **CLOSE)
        assert torch.equal(new_ids(model, inputs), before[1])
        assert all(one.retention == 1 for one in applied.last)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("retention", [0.1, 0.3])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_the_one_spliced_by_hand(family, kit, attention, retention, prompt, traced):
    model, inputs = kit.make(family, attention), kit.batch(family, kit.prompts(family)[prompt])
    unpatched = copy.deepcopy(model)
    with aot.apply(model, retention) as applied:
        logits = model(**inputs).logits
        kept = list(traced)
        assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(kept, applied.last, strict=True))
        budgets = [int(retention * 10) * one.tokens_before // 10 for one in kept]
        assert [len(one.tokens) for one in kept] == [max(1, budget) for budget in budgets]
        call = kit.by_hand(unpatched, inputs, kept)
        torch.testing.assert_close(logits[0], logits_by_hand(unpatched, call), **CLOSE)
        hand = greedy_by_hand(unpatched, call, GREEDY["max_new_tokens"])
        assert new_ids(model, inputs).tolist() == [hand]
        assert new_ids(model, inputs, use_cache=False).tolist() == [hand]


def test_a_number_of_tokens_holds_in_every_video(family, kit, traced):
    model, inputs = kit.make(family), kit.batch(family, kit.prompts(family)["two videos"])
    unpatched = copy.deepcopy(model)
    with aot.apply(model, max_tokens=5):
        found = new_ids(model, inputs)
        kept = list(traced)
        assert [(one.num_visual, one.bound) for one in kept] == [(5, "max_tokens")] * 2
        call = kit.by_hand(unpatched, inputs, kept)
        assert found.tolist() == [greedy_by_hand(unpatched, call, GREEDY["max_new_tokens"])]


def rows_of(family: str) -> list[tuple]:
    prompts = module_of(family).prompts(family)
    return [prompts["video"], prompts["two videos"], TEXT, prompts["image and video"]]


def test_ragged_batch_equals_each_prompt_alone(family, kit):
    model, together = kit.make(family), kit.batch(family, *rows_of(family))
    aot.apply(model, 0.2)
    found, logits = new_ids(model, together), model(**together).logits
    for number, parts in enumerate(rows_of(family)):
        alone = kit.batch(family, parts)
        assert torch.equal(found[number : number + 1], new_ids(model, alone))
        single = model(**alone).logits[0]
        torch.testing.assert_close(logits[number, -len(single) :], single, **close(family))
    assert len({tuple(one.tolist()) for one in found}) > 1


def test_rows_padded_on_the_right_are_themselves(family, kit):
    """Padding goes, and every row ends with its last token."""
    model, together = kit.make(family), kit.batch(family, *rows_of(family), side="right")
    aot.apply(model, 0.2)
    logits = model(**together).logits
    for number, parts in enumerate(rows_of(family)):
        single = model(**kit.batch(family, parts)).logits[0]
        torch.testing.assert_close(logits[number, -len(single) :], single, **close(family))


def test_beams_of_a_batch_are_those_of_each_prompt(family, kit):
    rows = [kit.prompts(family)[name] for name in ("video", "image and video")]
    model = kit.make(family)
    if family in ONCE:
        aot.apply(model, 0.2)
        with pytest.raises(aot.AOTError, match="cannot repeat"):
            new_ids(model, kit.batch(family, rows[0]), num_beams=3)
        return
    aot.apply(model, 0.2)
    together = new_ids(model, kit.batch(family, *rows), num_beams=3)
    for number, parts in enumerate(rows):
        alone = new_ids(model, kit.batch(family, parts), num_beams=3, num_return_sequences=3)
        assert torch.equal(together[number : number + 1], alone[:1])
        assert len({tuple(one.tolist()) for one in alone}) == 3


def test_a_later_turn_on_a_kept_cache_is_the_whole_conversation(family, kit):
    model, inputs = kit.make(family), kit.batch(family, kit.prompts(family)["image and video"])
    other = kit.batch(family, kit.prompts(family)["video"], kit.prompts(family)["two videos"])
    aot.apply(model, 0.2)
    first = model.generate(**inputs, return_dict_in_generate=True, **GREEDY)
    new_ids(model, other)  # the model remembers the positions of these instead
    longer = torch.cat([first.sequences, torch.tensor([[30, 31, 32]])], dim=1)
    again = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    whole = {**inputs, **again}
    if "mm_token_type_ids" in inputs:
        more = longer.shape[1] - inputs["input_ids"].shape[1]
        whole["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, more))
    cache = {CACHE: first[CACHE]}
    assert torch.equal(new_ids(model, again, **cache), new_ids(model, whole))


def test_a_step_by_hand_on_the_cache(family, kit):
    """As decoders of one's own do: the mask of all places, or none."""
    model, inputs = kit.make(family), kit.batch(family, kit.prompts(family)["two videos"])
    aot.apply(model, 0.2)
    more = torch.tensor([[30, 31]])
    ids = torch.cat([inputs["input_ids"], more], dim=1)
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        whole["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 2))
    expected = model(**whole).logits[:, -2:]
    for mask in ({}, {"attention_mask": torch.ones_like(ids)}):
        cache = model(**inputs, use_cache=True)[CACHE]
        found = model(input_ids=more, **{CACHE: cache}, **mask).logits
        torch.testing.assert_close(found, expected, **close(family))


def test_labels_give_the_loss_of_what_is_left(family, kit):
    """The mean over labelled tokens, each told by the kept place before it."""
    model, inputs = kit.make(family), kit.batch(family, *rows_of(family)[:2])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels = labels.masked_fill((labels == VIDEO) | (labels == IMAGE), -100)
    losses = []
    with aot.apply(model, 0.2) as applied:
        output, as_tuple = model(**inputs, labels=labels), model(**inputs, labels=labels, return_dict=False)
        for parts in rows_of(family)[:2]:
            logits = model(**kit.batch(family, parts)).logits[0]
            left = torch.tensor(left_of(kit.row(family, *parts), kit.of_frames(family, *parts), applied.last))
            told = (left[1:] != VIDEO) & (left[1:] != IMAGE)
            losses.append(torch.nn.functional.cross_entropy(logits[:-1][told], left[1:][told], reduction="none"))
        with torch.enable_grad():
            model(**inputs, labels=labels).loss.backward()
    torch.testing.assert_close(output.loss, torch.cat(losses).mean(), **CLOSE)
    assert torch.equal(as_tuple[0], output.loss) and torch.equal(as_tuple[1], output.logits)
    assert all(p.grad is not None for p in model.model.language_model.layers[-1].self_attn.parameters())


def test_all_tokens_have_the_gradients_of_the_model_itself(family, kit):
    """Of the tower as well, and of the rows that go to earlier layers; and a trained model can be copied."""
    model, inputs = kit.make(family), kit.batch(family, kit.prompts(family)["image and video"])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] >= START, -100)
    grads = []
    with torch.enable_grad():
        for given in (plain(inputs), inputs):
            model.zero_grad()
            model(**given, labels=labels).loss.backward()
            grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
            aot.apply(model, 1.0)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)
    copy.deepcopy(model)


def left_of(ids: list[int], of_frames: list[bool], kept: list) -> list[int]:
    """The ids that stay, with a placeholder for every token that a video keeps, at its place."""
    counts = [torch.bincount(kept_places(one), minlength=one.tokens_before).tolist() for one in kept]
    counts = iter(sum(counts, []))
    return [token for token, frame in zip(ids, of_frames, strict=True) for _ in range(next(counts) if frame else 1)]


def test_every_method_of_the_registry_works_or_says_why(family, kit, traced):
    prompts = kit.prompts(family)
    model, inputs = kit.make(family), kit.batch(family, prompts["image and video"], prompts["video"])
    unpatched = copy.deepcopy(model)
    for method in aot.method_names():
        if get_method(method).in_llm:
            with pytest.raises(aot.AOTError, match="inside the language model"):
                aot.apply(model, 0.25, method=method)
            continue
        traced.clear()
        with aot.apply(model, 0.25, method=method):
            logits = model(**inputs).logits
            kept = list(traced)
        assert all(0 < one.num_visual <= one.tokens_before // 4 for one in kept), method
        call = kit.by_hand(unpatched, kit.batch(family, kit.prompts(family)["video"]), kept[1:])
        torch.testing.assert_close(
            logits[1, -call["inputs_embeds"].shape[1] :], logits_by_hand(unpatched, call), **close(family)
        )


@pytest.mark.parametrize("preset", ["released", "paper"])
def test_presets_that_emit_a_place_twice_or_count_by_themselves(family, kit, preset, traced):
    model, inputs = kit.make(family), kit.batch(family, (5, kit.image(), 6, kit.video(16, 4, 8), 7, 8))
    unpatched = copy.deepcopy(model)
    config = aot.AOTConfig.preset(preset, num_anchors=5)
    with aot.apply(model, config=config):
        logits = model(**inputs).logits
        (kept,) = traced
        call = kit.by_hand(unpatched, inputs, [kept])
        torch.testing.assert_close(logits[0], logits_by_hand(unpatched, call), **CLOSE)
        hand = greedy_by_hand(unpatched, call, GREEDY["max_new_tokens"])
        assert new_ids(model, inputs).tolist() == [hand]
    places = torch.cat([kept.frame.unsqueeze(1), kept.position], dim=1)
    assert (len(places.unique(dim=0)) < len(places)) == (preset == "released")


def test_remove_leaves_no_trace(family, kit):
    model, inputs = kit.make(family), kit.batch(family, *rows_of(family))
    parts = [model, *model.modules()]

    def outputs(inputs):
        return [model(**inputs).logits, new_ids(model, inputs), *kit.encoded(model, inputs)]

    def traces():
        return [(len(part._forward_hooks), len(part._forward_pre_hooks), set(part.__dict__)) for part in parts]

    before, hooks = outputs(plain(inputs)), traces()
    aot.apply(model, 0.1)
    during = outputs(inputs)
    aot.apply(model, 0.5)
    aot.remove(model)
    aot.remove(model)
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(plain(inputs)), strict=True))
    assert before[0].shape[1] > during[0].shape[1] and hooks == traces()


def test_images_and_text_are_not_touched(family, kit):
    model = kit.make(family)
    for parts in (TEXT, (5, kit.image(), 6, 7, 8)):
        inputs = kit.batch(family, parts)
        before = model(**plain(inputs)).logits, new_ids(model, plain(inputs))
        with aot.apply(model, 0.1):
            assert torch.equal(model(**inputs).logits, before[0]) and torch.equal(new_ids(model, inputs), before[1])


def test_sampling_and_low_precision(family, kit):
    model, inputs = kit.make(family), kit.batch(family, *rows_of(family))
    aot.apply(model, 0.2)
    once = family in ONCE or not NEW and family == "LlavaNextVideo"  # which mixes up several videos of a prompt
    settings = {"do_sample": True, "num_return_sequences": 1 if once else 2}
    torch.manual_seed(1)
    first = new_ids(model, inputs, **settings)
    torch.manual_seed(1)
    assert torch.equal(new_ids(model, inputs, **settings), first)
    assert len(first) == len(rows_of(family)) * settings["num_return_sequences"]
    expected = model(**inputs).logits
    low = model.to(torch.bfloat16)(**inputs).logits
    assert low.dtype == torch.bfloat16 and low.shape == expected.shape and bool(low.isfinite().all())
    one = kit.batch(family, kit.prompts(family)["two videos"])  # padding moves positions, and bfloat16 rounds them
    with aot.apply(model, 1.0):
        whole = model(**one).logits
    aot.remove(model)
    assert torch.equal(model(**plain(one)).logits, whole)
