"""aot.apply on transformers' video families: several at once, prompts in pieces, later videos, and what is refused."""

import copy
import functools
import io

import pytest
import torch

import aot

from .families import CACHE, CLOSE, FAMILIES, NEW, QWEN, START, close, module_of, new_ids, plain, reads_in_pieces
from .test_families import rows_of


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


@pytest.mark.parametrize("names", [("Qwen3VL", "InternVL", "LlavaNextVideo"), ("Qwen2VL", "Qwen2_5_VL", "Qwen3VLMoe")])
def test_three_families_in_one_process_keep_their_settings(names):
    kits, retentions = [module_of(name) for name in names], (0.1, 0.5, 0.25)
    models = [one.make(name) for one, name in zip(kits, names, strict=True)]
    inputs = [one.batch(name, one.prompts(name)["video"]) for one, name in zip(kits, names, strict=True)]
    expected = []
    for model, one, retention in zip(models, inputs, retentions, strict=True):
        with aot.apply(model, retention) as applied:
            expected.append((new_ids(model, one), applied.last[0].tokens_before))
    for model, retention in zip(models, retentions, strict=True):
        aot.apply(model, retention)
    copied = copy.deepcopy(models[0])
    for model, one, retention, (ids, tokens) in zip(models, inputs, retentions, expected, strict=True):
        assert torch.equal(new_ids(model, one), ids)
        assert model(**one).logits.shape[1] == one["input_ids"].shape[1] - tokens + int(retention * tokens)
    aot.remove(models[0])
    assert models[0](**inputs[0]).logits.shape[1] == inputs[0]["input_ids"].shape[1]
    assert torch.equal(new_ids(copied, inputs[0]), expected[0][0])


@pytest.mark.skipif(not reads_in_pieces(), reason="this release of transformers loses videos of prompts in pieces")
@pytest.mark.parametrize("size", [3, 20, 1000])
def test_a_prompt_in_pieces_is_answered_as_a_whole(family, kit, size):
    model, inputs = kit.make(family), kit.batch(family, *rows_of(family))
    aot.apply(model, 0.2)
    if family.startswith("Qwen3_5"):
        with pytest.raises(aot.AOTError, match="Linear attention"):
            new_ids(model, inputs, prefill_chunk_size=size)
        return
    assert torch.equal(new_ids(model, inputs, prefill_chunk_size=size), new_ids(model, inputs))


@pytest.mark.skipif(reads_in_pieces(), reason="this release of transformers reads videos in pieces")
def test_pieces_that_lose_the_video_are_refused(family, kit):
    model = kit.make(family)
    aot.apply(model, 0.2)
    with pytest.raises(aot.AOTError, match="prefill_chunk_size|Linear attention"):
        new_ids(model, kit.batch(family, rows_of(family)[0]), prefill_chunk_size=3)


def test_a_new_video_in_a_later_turn(family, kit):
    """By forward calls; what generate of transformers 4 drops must not pass for an answer."""
    model = kit.make(family)
    parts, more = kit.prompts(family)["image and video"], (30, kit.clip(family), 31, 32)
    first, later, whole = kit.batch(family, parts), kit.batch(family, more), kit.batch(family, parts + more)
    aot.apply(model, 0.2)
    cache = {CACHE: model(**first, use_cache=True)[CACHE]}
    later["attention_mask"] = whole["attention_mask"]
    expected = model(**whole).logits
    found = model(**later, **cache).logits
    # Qwen2.5-VL of transformers 5 counts on from inside the first video's time, and so does the whole here
    torch.testing.assert_close(found, expected[:, -found.shape[1] :], **close(family))
    if not NEW:
        cache = {CACHE: model(**first, use_cache=True)[CACHE]}
        with pytest.raises(aot.AOTError, match="came without it"):
            new_ids(model, {**later, "input_ids": whole["input_ids"]}, **cache)


def test_an_image_in_a_later_turn(family, kit):
    model = kit.make(family)
    parts, more = kit.prompts(family)["video"], (30, kit.image(4, 6), 31, 32)
    first, later, whole = kit.batch(family, parts), kit.batch(family, more), kit.batch(family, parts + more)
    aot.apply(model, 0.2)
    cache = {CACHE: model(**first, use_cache=True)[CACHE]}
    later["attention_mask"] = whole["attention_mask"]
    found = model(**later, **cache).logits
    torch.testing.assert_close(found, model(**whole).logits[:, -found.shape[1] :], **close(family))


def test_what_cannot_work_is_refused(family, kit):
    model, inputs = kit.make(family), kit.batch(family, kit.prompts(family)["image and video"])
    aot.apply(model, 0.2)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    for call in (model, functools.partial(model.generate, max_new_tokens=1)):
        with pytest.raises(aot.AOTError, match="inputs_embeds"):
            call(**{**inputs, "input_ids": None}, inputs_embeds=embeds)
    with pytest.raises(aot.AOTError, match="logits_to_keep"):
        model(**inputs, logits_to_keep=torch.tensor([1, 2]))
    if (family, NEW) != ("Qwen2VL", False):  # which does not know the argument
        assert model(**inputs, logits_to_keep=1).logits.shape[1] == 1
    another = kit.batch(family, *[kit.prompts(family)["image and video"]] * 2)
    with pytest.raises((aot.AOTError, ValueError), match="do not match|does not fit"):
        model(**{**another, "input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]})
    cache = model(**inputs, use_cache=True)[CACHE]
    del cache._aot_prompt
    mask = torch.ones(1, inputs["input_ids"].shape[1] + 1, dtype=torch.long)
    with pytest.raises(aot.AOTError, match="its cache does not know"):
        model(input_ids=torch.tensor([[40]]), attention_mask=mask, **{CACHE: cache})
    with pytest.raises(aot.AOTError, match="inside this"):
        aot.apply(torch.compile(model, backend="eager"))
    # nothing is left behind by a call that failed
    alone = copy.deepcopy(model)
    aot.remove(alone)
    assert torch.equal(
        model.model.language_model(input_ids=torch.tensor([[5, 6]]))[0],
        alone.model.language_model(input_ids=torch.tensor([[5, 6]]))[0],
    )


def test_positions_that_do_not_count_are_refused(family, kit):
    """As of prompts packed in one row, which would see each other; those that count change nothing."""
    model, inputs = kit.make(family), kit.batch(family, *rows_of(family)[:2])
    count = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    again = torch.cat([count[:, :-3], count[:, :3]], dim=1)
    if family in QWEN:  # of text, before three planes of its own
        if not NEW:
            return
        count, again = (torch.cat([one[None], kit.rope(model, inputs)]) for one in (count, again))
    aot.apply(model, 0.2)
    assert torch.equal(model(**inputs, position_ids=count).logits, model(**inputs).logits)
    with pytest.raises(aot.AOTError, match="position_ids do not count"):
        model(**inputs, position_ids=again)


def test_a_call_without_videos_has_none(family, kit):
    model, inputs = kit.make(family), kit.batch(family, kit.prompts(family)["video"])
    applied = aot.apply(model, 0.2)
    new_ids(model, inputs)
    assert len(applied.last) == 1 and applied.seconds > 0
    new_ids(model, kit.batch(family, (20, 21, 22)))
    assert applied.last == [] and applied.seconds == 0 and applied.tower_share == 1

    def asks_beside(ids, scores):  # as guidance by a prompt without the video does
        return scores + model(input_ids=torch.tensor([[20, 21, 22]])).logits[:, -1]

    new_ids(model, inputs, logits_processor=[asks_beside])
    assert len(applied.last) == 1
    model(**kit.batch(family, (20, 21, 22)))
    assert applied.last == []
    assert applied.trace(kit.batch(family, (20, 21, 22))) == []
    aot.remove(model)
    with pytest.raises(aot.AOTError, match="taken off this model"):
        applied.trace(inputs)


def test_the_loss_has_all_that_the_models_own_has(family, kit):
    """How many labels there are in all, which are left out, and of a mixture how unevenly its experts are chosen."""
    if family in ("Qwen3VL", "Qwen3VLMoe") and not NEW:
        pytest.skip("transformers 4 passes none of it on")
    model, inputs = kit.make(family), kit.batch(family, kit.prompts(family)["image and video"])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] >= START, 21)
    call = {"labels": labels, "num_items_in_batch": 7, "ignore_index": 21}
    if family.endswith("Moe"):
        call["output_router_logits"] = True
    own = model(**plain(inputs), **call).loss
    aot.apply(model, 1.0)
    torch.testing.assert_close(model(**inputs, **call).loss, own, **close(family))
    torch.testing.assert_close(model(**inputs, **call, return_dict=False)[0], own, **close(family))
    with pytest.raises(aot.AOTError, match="shift_labels"):
        model(**inputs, labels=labels, shift_labels=labels)


def test_several_questions_on_one_cache(family, kit):
    """On a cache whose prompt is repeated, in one batch; without that the rows are not its own."""
    if family.startswith("Qwen3_5"):
        pytest.skip("caches of linear attention cannot be repeated")
    model, begin, questions = kit.make(family), (5, 6, kit.clip(family), 7), ((20, 21, 22), (30, 31, 32))
    aot.apply(model, 0.3)
    expected = [new_ids(model, kit.batch(family, begin + question)) for question in questions]
    asked = {"input_ids": kit.batch(family, *(begin + question for question in questions))["input_ids"]}
    asked["attention_mask"] = torch.ones_like(asked["input_ids"])
    cache = {CACHE: model(**kit.batch(family, begin), use_cache=True)[CACHE]}
    with pytest.raises(aot.AOTError, match="The cache is of 1 prompts, but 2 came"):
        new_ids(model, asked, **copy.deepcopy(cache))
    cache[CACHE].batch_repeat_interleave(2)
    step = model(input_ids=torch.tensor(questions), **copy.deepcopy(cache)).logits
    for row, question in zip(step, questions, strict=True):
        whole = model(**kit.batch(family, begin + question)).logits[0]
        torch.testing.assert_close(row, whole[-len(question) :], **CLOSE)
    assert torch.equal(new_ids(model, asked, **cache), torch.cat(expected))


def test_a_saved_model_comes_back_with_its_settings(family, kit):
    """As torch.save keeps a whole model, and processes hand it over; each is a model of its own."""
    model, inputs, file = kit.make(family), kit.batch(family, kit.prompts(family)["image and video"]), io.BytesIO()
    aot.apply(model, 0.2)
    torch.save(model, file)  # before a call, in which transformers may put hooks on a tower that cannot be saved
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    expected, ids = model(**inputs).logits, new_ids(model, inputs)
    aot.remove(model)
    assert torch.equal(loaded(**inputs).logits, expected) and torch.equal(new_ids(loaded, inputs), ids)
    aot.remove(loaded)
    assert torch.equal(loaded(**plain(inputs)).logits, model(**plain(inputs)).logits)
