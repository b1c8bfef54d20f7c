"""aot.apply on transformers' Qwen-VL models: prompts spliced by hand on a plain model, and no trace after remove."""

import copy
import sys

import pytest
import torch

import aot
from aot.compress import compress
from aot.integrations import qwen_vl
from aot.registry import get_method

from .families import (
    CACHE,
    NEW,
    QWEN,
    VIDEO,
    batch,
    by_hand,
    features,
    greedy_by_hand,
    image,
    logits_by_hand,
    make,
    rope,
    row,
    video,
)

GREEDY = {"max_new_tokens": 6, "do_sample": False}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PROMPTS = {
    "video": (5, 6, video(), 7, 8, 9),
    "two videos": (5, video(3, 4, 8), 6, 7, video(2, 8, 6), 8, 9),
    "image and video": (5, image(), 6, video(3, 4, 8), 7, 8),
    "video and image": (5, 6, video(4, 8, 6), 7, image(6, 4), 8, 9, 10),
}
ONCE = () if NEW else ("Qwen3VL", "Qwen3VLMoe")  # cannot repeat a prompt with a video
TEXT = (20, 21, 22, 23, 24)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=QWEN)
def family(request):
    return request.param


def new_ids(model, inputs, **settings):
    """(B, n) what generate adds to the prompts."""
    return model.generate(**inputs, **{**GREEDY, **settings})[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_all_tokens_are_the_model_itself(family, attention, prompt):
    model, inputs = make(family, attention), batch(family, PROMPTS[prompt])
    before = model(**inputs).logits, new_ids(model, inputs)
    with aot.apply(model, 1.0) as applied:
        torch.testing.assert_close(model(**inputs).logits, before[0], **CLOSE)
        assert torch.equal(new_ids(model, inputs), before[1])
        assert all(one.retention == 1 for one in applied.last)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("retention", [0.1, 0.3])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_the_one_spliced_by_hand(family, attention, retention, prompt):
    model, inputs = make(family, attention), batch(family, PROMPTS[prompt])
    plain = copy.deepcopy(model)
    with aot.apply(model, retention) as applied:
        logits = model(**inputs).logits
        kept = applied.last
        budgets = [int(retention * 10) * one.tokens_before // 10 for one in kept]
        assert [len(one.tokens) for one in kept] == [max(1, budget) for budget in budgets]
        call = by_hand(plain, inputs, kept)
        torch.testing.assert_close(logits[0], logits_by_hand(plain, call), **CLOSE)
        hand = greedy_by_hand(plain, call, GREEDY["max_new_tokens"])
        assert new_ids(model, inputs).tolist() == [hand]
        assert new_ids(model, inputs, use_cache=False).tolist() == [hand]


def test_a_number_of_tokens_holds_in_every_video(family):
    model, inputs = make(family), batch(family, PROMPTS["two videos"])
    plain = copy.deepcopy(model)
    with aot.apply(model, max_tokens=5) as applied:
        found = new_ids(model, inputs)
        kept = applied.last
        assert [(len(one.tokens), one.bound) for one in kept] == [(5, "max_tokens")] * 2
        assert found.tolist() == [greedy_by_hand(plain, by_hand(plain, inputs, kept), GREEDY["max_new_tokens"])]


ROWS = [PROMPTS["video"], PROMPTS["two videos"], TEXT, PROMPTS["image and video"]]


def test_ragged_batch_equals_each_prompt_alone(family):
    model, together = make(family), batch(family, *ROWS)
    aot.apply(model, 0.2)
    found, logits = new_ids(model, together), model(**together).logits
    for number, parts in enumerate(ROWS):
        alone = batch(family, parts)
        assert torch.equal(found[number : number + 1], new_ids(model, alone))
        single = model(**alone).logits[0]
        torch.testing.assert_close(logits[number, -len(single) :], single, **CLOSE)
    assert len({tuple(one.tolist()) for one in found}) > 1


def test_rows_padded_on_the_right_are_themselves(family):
    """Padding goes, and every row ends with its last token."""
    model, together = make(family), batch(family, *ROWS, side="right")
    aot.apply(model, 0.2)
    logits = model(**together).logits
    for number, parts in enumerate(ROWS):
        single = model(**batch(family, parts)).logits[0]
        torch.testing.assert_close(logits[number, -len(single) :], single, **CLOSE)


def test_beams_of_a_batch_are_those_of_each_prompt(family):
    rows = [(5, 6, video(), 7, 8, 9), (5, image(), 6, video(3, 4, 8), 7, 8)]
    model = make(family)
    if family in ONCE:
        with pytest.raises(RuntimeError, match="split_sizes"):  # it takes each frame for a video, without us too
            new_ids(model, batch(family, rows[0]), num_beams=3)
        aot.apply(model, 0.2)
        with pytest.raises(aot.AOTError, match="cannot repeat"):
            new_ids(model, batch(family, rows[0]), num_beams=3)
        return
    aot.apply(model, 0.2)
    together = new_ids(model, batch(family, *rows), num_beams=3)
    for number, parts in enumerate(rows):
        alone = new_ids(model, batch(family, parts), num_beams=3, num_return_sequences=3)
        assert torch.equal(together[number : number + 1], alone[:1])
        assert len({tuple(one.tolist()) for one in alone}) == 3


def test_a_later_turn_on_a_kept_cache_is_the_whole_conversation(family):
    model, inputs = make(family), batch(family, PROMPTS["image and video"])
    other = batch(family, PROMPTS["video"], PROMPTS["two videos"])
    aot.apply(model, 0.2)
    first = model.generate(**inputs, return_dict_in_generate=True, **GREEDY)
    new_ids(model, other)  # the model remembers the positions of these instead
    longer = torch.cat([first.sequences, torch.tensor([[30, 31, 32]])], dim=1)
    again = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    whole = {**inputs, **again}
    if NEW:
        more = longer.shape[1] - inputs["input_ids"].shape[1]
        whole["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, more))
    cache = {CACHE: first[CACHE]}
    assert torch.equal(new_ids(model, again, **cache), new_ids(model, whole))


def test_a_step_by_hand_on_the_cache(family):
    """As decoders of one's own do: the mask of all places, or none."""
    model, inputs = make(family), batch(family, PROMPTS["two videos"])
    aot.apply(model, 0.2)
    more = torch.tensor([[30, 31]])
    ids = torch.cat([inputs["input_ids"], more], dim=1)
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if NEW:
        whole["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 2))
    expected = model(**whole).logits[:, -2:]
    for mask in ({}, {"attention_mask": torch.ones_like(ids)}):
        cache = model(**inputs, use_cache=True)[CACHE]
        found = model(input_ids=more, **{CACHE: cache}, **mask).logits
        torch.testing.assert_close(found, expected, **CLOSE)


def test_labels_give_the_loss_of_what_is_left(family):
    """The mean over labelled tokens, each told by the kept place before it."""
    model, inputs = make(family), batch(family, *ROWS[:2])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels = labels.masked_fill(labels == VIDEO, -100)
    losses = []
    with aot.apply(model, 0.2) as applied:
        output, as_tuple = model(**inputs, labels=labels), model(**inputs, labels=labels, return_dict=False)
        for parts in ROWS[:2]:
            logits = model(**batch(family, parts)).logits[0]
            left = torch.tensor(left_of(row(family, *parts), applied.last))
            told = left[1:] != VIDEO
            losses.append(torch.nn.functional.cross_entropy(logits[:-1][told], left[1:][told], reduction="none"))
        with torch.enable_grad():
            model(**inputs, labels=labels).loss.backward()
    torch.testing.assert_close(output.loss, torch.cat(losses).mean(), **CLOSE)
    assert torch.equal(as_tuple[0], output.loss) and torch.equal(as_tuple[1], output.logits)
    assert all(p.grad is not None for p in model.model.language_model.layers[0].self_attn.parameters())


def left_of(ids: list[int], kept: list) -> list[int]:
    """The ids that stay, with a placeholder for every token that a video keeps, at its place."""
    counts = []
    for one in kept:
        height, width = one.grid
        flat = (one.frame * height + one.position[:, 0]) * width + one.position[:, 1]
        counts += torch.bincount(flat, minlength=one.tokens_before).tolist()
    counts = iter(counts)
    return [token for token in ids for _ in range(next(counts) if token == VIDEO else 1)]


def raster(values: torch.Tensor, grid: tuple[int, int, int], family: str) -> torch.Tensor:
    """(T, N, ...) of a video's patches (n, ...) summed by merged tokens; Qwen2.5-VL has windows of 2x2 tokens first."""
    frames, height, width = grid[0], grid[1] // 2, grid[2] // 2
    places = [(r, c) for r in range(height) for c in range(width)]
    if family == "Qwen2_5_VL":
        places.sort(key=lambda place: (place[0] // 2, place[1] // 2, *place))
    order = torch.tensor([r * width + c for r, c in places]).argsort()
    return values.unflatten(0, (frames, height * width, 4)).sum(2)[:, order]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_received_attention_is_that_of_an_eager_map(family, attention, monkeypatch):
    """The weights that eager mode itself makes in the nearest layers that see whole frames."""
    grids = [(3, 8, 12), (2, 6, 4)]
    model, inputs = make(family, attention), batch(family, (5, video(*grids[0]), 6, video(*grids[1]), 7))
    tower = make(family, "eager").model.visual
    module = sys.modules[type(tower).__module__]
    original, weights, keys = module.eager_attention_forward, {}, []

    def eager(attention, *args, **kwargs):
        output, found = original(attention, *args, **kwargs)
        weights.setdefault(id(attention), []).append(found[0].mean(0).sum(0))  # over heads, over queries
        return output, found

    tower.blocks[5].attn.qkv.register_forward_hook(lambda module, args, output: keys.append(output))
    with monkeypatch.context() as patch:
        patch.setattr(module, "eager_attention_forward", eager)
        tower(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"])
    read = []
    monkeypatch.setattr(
        qwen_vl, "compress", lambda *args, **kwargs: read.append((args, kwargs)) or compress(*args, **kwargs)
    )
    aot.apply(model, 0.2)
    model(**inputs)
    aot.apply(model, 0.2, method="visionzip")
    model(**inputs)
    shallow, deep = (2, 5) if family == "Qwen2_5_VL" else (1, 4)
    sizes = [t * h * w for t, h, w in grids]
    found_keys = keys[0].unflatten(-1, (3, 2, -1))[:, 1].mean(1).split(sizes)
    for number, grid in enumerate(grids):

        def of(layer, number=number, grid=grid):
            return raster(torch.cat(weights[id(tower.blocks[layer].attn)]).split(sizes)[number], grid, family)

        found, extras = read[number][0], read[2 + number][1]["extras"]
        for one, expected in ((found[1], of(shallow)), (found[2], of(deep)), (extras["attention_last"], of(5))):
            torch.testing.assert_close(one, expected, **CLOSE)
        torch.testing.assert_close(extras["keys"], raster(found_keys[number], grid, family) / 4, **CLOSE)


def test_every_method_of_the_registry_works_or_says_why(family):
    model, inputs = make(family), batch(family, PROMPTS["image and video"], PROMPTS["video"])
    plain = copy.deepcopy(model)
    for method in aot.method_names():
        if get_method(method).in_llm:
            with pytest.raises(aot.AOTError, match="inside the language model"):
                aot.apply(model, 0.25, method=method)
            continue
        with aot.apply(model, 0.25, method=method) as applied:
            logits = model(**inputs).logits
            kept = applied.last
        assert all(0 < one.num_visual <= one.tokens_before // 4 for one in kept), method
        call = by_hand(plain, batch(family, PROMPTS["video"]), kept[1:])
        torch.testing.assert_close(logits[1, -call["inputs_embeds"].shape[1] :], logits_by_hand(plain, call), **CLOSE)


@pytest.mark.parametrize("preset", ["released", "paper"])
def test_presets_that_emit_a_place_twice_or_count_by_themselves(family, preset):
    model, inputs = make(family), batch(family, (5, image(), 6, video(16, 4, 8), 7, 8))
    plain = copy.deepcopy(model)
    config = aot.AOTConfig.preset(preset, num_anchors=5)
    with aot.apply(model, config=config) as applied:
        logits = model(**inputs).logits
        (kept,) = applied.last
        call = by_hand(plain, inputs, [kept])
        torch.testing.assert_close(logits[0], logits_by_hand(plain, call), **CLOSE)
        hand = greedy_by_hand(plain, call, GREEDY["max_new_tokens"])
        assert new_ids(model, inputs).tolist() == [hand]
    places = torch.cat([kept.frame.unsqueeze(1), kept.position], dim=1)
    assert (len(places.unique(dim=0)) < len(places)) == (preset == "released")


def test_remove_leaves_no_trace(family):
    model, inputs = make(family), batch(family, *ROWS)
    parts = [model, *model.modules()]

    def outputs():
        found = features(model, inputs["pixel_values_videos"], inputs["video_grid_thw"])
        return [model(**inputs).logits, new_ids(model, inputs), *found[0], *found[1]]

    def traces():
        return [(len(part._forward_hooks), len(part._forward_pre_hooks), set(part.__dict__)) for part in parts]

    before, hooks = outputs(), traces()
    aot.apply(model, 0.1)
    during = outputs()
    aot.apply(model, 0.5)
    aot.remove(model)
    aot.remove(model)
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(), strict=True))
    assert before[0].shape[1] > during[0].shape[1] and hooks == traces()


def test_images_and_text_are_not_touched(family):
    model = make(family)
    for parts in (TEXT, (5, image(), 6, 7, 8)):
        inputs = batch(family, parts)
        before = model(**inputs).logits, new_ids(model, inputs)
        with aot.apply(model, 0.1):
            assert torch.equal(model(**inputs).logits, before[0]) and torch.equal(new_ids(model, inputs), before[1])


def test_sampling_and_low_precision(family):
    model, inputs = make(family), batch(family, *ROWS)
    aot.apply(model, 0.2)
    settings = {"do_sample": True, "num_return_sequences": 1 if family in ONCE else 2}
    torch.manual_seed(1)
    first = new_ids(model, inputs, **settings)
    torch.manual_seed(1)
    assert torch.equal(new_ids(model, inputs, **settings), first)
    assert len(first) == len(ROWS) * settings["num_return_sequences"]
    expected = model(**inputs).logits
    low = model.to(torch.bfloat16)(**inputs).logits
    assert low.dtype == torch.bfloat16 and low.shape == expected.shape and bool(low.isfinite().all())
    with aot.apply(model, 1.0):
        whole = model(**inputs).logits
    aot.remove(model)
    assert torch.equal(model(**inputs).logits, whole)


def test_three_families_in_one_process_keep_their_settings(family):
    names = [family, *(name for name in QWEN if name != family)][:3]
    models = [make(name) for name in names]
    inputs = [batch(name, PROMPTS["video"]) for name in names]
    expected = []
    for model, one, retention in zip(models, inputs, (0.1, 0.5, 0.25), strict=True):
        with aot.apply(model, retention):
            expected.append(new_ids(model, one))
    for model, retention in zip(models, (0.1, 0.5, 0.25), strict=True):
        aot.apply(model, retention)
    copied = copy.deepcopy(models[0])
    for model, one, ids, kept in zip(models, inputs, expected, (4, 24, 12), strict=True):
        assert torch.equal(new_ids(model, one), ids)
        assert model(**one).logits.shape[1] == one["input_ids"].shape[1] - 48 + kept
    aot.remove(models[0])
    assert models[0](**inputs[0]).logits.shape[1] == inputs[0]["input_ids"].shape[1]
    assert torch.equal(new_ids(copied, inputs[0]), expected[0])


@pytest.mark.skipif(not NEW, reason="transformers 4 loses videos of prompts in pieces")
@pytest.mark.parametrize("size", [3, 20, 1000])
def test_a_prompt_in_pieces_is_answered_as_a_whole(family, size):
    model, inputs = make(family), batch(family, *ROWS)
    aot.apply(model, 0.2)
    assert torch.equal(new_ids(model, inputs, prefill_chunk_size=size), new_ids(model, inputs))


@pytest.mark.skipif(NEW, reason="transformers 5 reads videos in pieces")
def test_pieces_that_lose_the_video_are_refused(family):
    model = make(family)
    aot.apply(model, 0.2)
    with pytest.raises(aot.AOTError, match="prefill_chunk_size"):
        new_ids(model, batch(family, ROWS[0]), prefill_chunk_size=3)


def test_a_new_video_in_a_later_turn(family):
    """By forward calls; what generate of transformers 4 drops must not pass for an answer."""
    model = make(family)
    parts, more = PROMPTS["image and video"], (30, video(2, 6, 4), 31, 32)
    first, later, whole = batch(family, parts), batch(family, more), batch(family, parts + more)
    aot.apply(model, 0.2)
    cache = {CACHE: model(**first, use_cache=True)[CACHE]}
    later["attention_mask"] = whole["attention_mask"]
    expected = model(**whole).logits
    found = model(**later, **cache).logits
    # Qwen2.5-VL of transformers 5 counts on from inside the first video's time, and so does the whole here
    torch.testing.assert_close(found, expected[:, -found.shape[1] :], **CLOSE)
    if not NEW:
        cache = {CACHE: model(**first, use_cache=True)[CACHE]}
        with pytest.raises(aot.AOTError, match="came without it"):
            new_ids(model, {**later, "input_ids": whole["input_ids"]}, **cache)


def test_an_image_in_a_later_turn(family):
    model = make(family)
    parts, more = PROMPTS["video"], (30, image(4, 6), 31, 32)
    first, later, whole = batch(family, parts), batch(family, more), batch(family, parts + more)
    aot.apply(model, 0.2)
    cache = {CACHE: model(**first, use_cache=True)[CACHE]}
    later["attention_mask"] = whole["attention_mask"]
    found = model(**later, **cache).logits
    torch.testing.assert_close(found, model(**whole).logits[:, -found.shape[1] :], **CLOSE)


def test_what_cannot_work_is_refused(family):
    model, inputs = make(family), batch(family, PROMPTS["image and video"])
    aot.apply(model, 0.2)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(aot.AOTError, match="inputs_embeds"):
        model(**{**inputs, "input_ids": None}, inputs_embeds=embeds)
    with pytest.raises(aot.AOTError, match="logits_to_keep"):
        model(**inputs, logits_to_keep=torch.tensor([1, 2]))
    if (family, NEW) != ("Qwen2VL", False):  # which does not know the argument
        assert model(**inputs, logits_to_keep=1).logits.shape[1] == 1
    fewer = {**inputs, "video_grid_thw": inputs["video_grid_thw"].repeat(2, 1)}
    fewer["pixel_values_videos"] = inputs["pixel_values_videos"].repeat(2, 1)
    with pytest.raises((aot.AOTError, ValueError), match="do not match|does not fit"):
        model(**fewer)
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


def test_positions_are_those_of_the_release():
    """Qwen2.5-VL's own: transformers 5 lets text begin inside the video's time; the host keeps what the model does."""
    model, inputs = make("Qwen2_5_VL"), batch("Qwen2_5_VL", (5, 6, video(8, 8, 6), 7, 8))
    places = rope(model, inputs)[:, 0]
    (seen,) = (inputs["input_ids"][0] == VIDEO).nonzero(as_tuple=True)[:1]
    text = places[0, int(seen[-1]) + 1 :]
    inside = bool((text <= places[0, seen].max()).any())
    assert inside == NEW
    used = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: used.append(kwargs["position_ids"]), with_kwargs=True
    )
    with aot.apply(model, 0.2):
        model(**inputs)
    assert torch.equal(used[-1][-3:, 0, -len(text) :], places[:, -len(text) :])
