"""FastV and PDrop against a slow reference that hides dropped tokens from later layers and removes nothing."""

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

from aot import AOTConfig
from aot.methods.in_llm import prune_stages
from llava.eval.lmms.measure import Measure
from llava.model.pruning import Role, _check_plain, attention_mask_for, attention_of_query, choose, roles_of

LAYERS, VISUAL = 6, 6 * 36
GREEDY = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": None}
IDS = torch.tensor([[5, 9, -200, 6, 7, 8]])
METHODS = {
    "fastv": {"method": "fastv", "retention": 0.4},
    "fastv last": {"method": "fastv", "retention": 0.1, "options": {"layer": 1, "counts": "last"}},
    "pdrop": {"method": "pdrop", "retention": 0.5},
    "pdrop last": {"method": "pdrop", "retention": 0.125, "options": {"layers": [2, 3, 5], "counts": "last"}},
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def deep_model(make_model):
    return make_model(num_hidden_layers=LAYERS)


def reference(model, embeds, role, aot, positions=None):
    """Logits (L, vocabulary) of one prompt and what was kept (L,): attention weights of whole layers, masked.

    positions: (1, L), None for those that count.
    """
    model.set_attn_implementation("eager")  # gives its weights
    length = embeds.shape[1]
    query = int((role == Role.QUERY).nonzero())
    kept = torch.ones(length, dtype=torch.bool)
    stages = prune_stages(AOTConfig.from_dict(aot), int((role == Role.VISUAL).sum()), LAYERS)
    rotary = model.model.rotary_emb(embeds, torch.arange(length)[None] if positions is None else positions)
    hidden, weights = embeds, {}
    for number, layer in enumerate(model.model.layers):
        states = layer.input_layernorm(hidden)
        weights[number] = layer.self_attn(states, position_embeddings=rotary, attention_mask=visible(kept))[1][0]
        for stage in stages:
            if stage.layer == number:
                score = weights[stage.look].mean(0)[query]
                candidates = ((role == Role.VISUAL) & kept).nonzero().flatten()
                best = score[candidates].topk(stage.keep).indices
                kept[candidates] = False
                kept[candidates[best]] = True
        hidden = layer(hidden, attention_mask=visible(kept), position_embeddings=rotary)
    return model.lm_head(model.model.norm(hidden))[0], kept


def visible(kept):
    """Additive mask (1, 1, L, L) under which tokens see kept ones before them, and themselves."""
    seen = torch.ones(len(kept), len(kept), dtype=torch.bool).tril() & (kept | torch.eye(len(kept), dtype=torch.bool))
    return torch.zeros(seen.shape).masked_fill(~seen, -1e30)[None, None]


def prepare(model, ids, images, modalities="video", **kwargs):
    embeds = model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, images, modalities, **kwargs)[4]
    return embeds, model.last_roles[0]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("case", METHODS)
def test_prompt_equals_the_reference(deep_model, video, case, implementation):
    deep_model.set_attn_implementation(implementation)
    deep_model.config.aot = METHODS[case]
    logits = deep_model(IDS, images=[video], modalities=["video"]).logits[0]
    embeds, role = prepare(deep_model, IDS, [video])
    expected, kept = reference(deep_model, embeds, role, METHODS[case])
    assert (role == Role.VISUAL).sum() == VISUAL and 0 < int((~kept).sum()) < VISUAL
    torch.testing.assert_close(logits[kept], expected[kept], rtol=1e-4, atol=1e-4)
    assert not logits[~kept].any()


@pytest.mark.parametrize("case", METHODS)
def test_decoding_equals_the_reference(deep_model, video, case):
    deep_model.config.aot = METHODS[case]
    out = deep_model.generate(
        IDS, images=[video], modalities="video", output_logits=True, return_dict_in_generate=True, **GREEDY
    )
    embeds, role = prepare(deep_model, IDS, [video])
    for step, logits in enumerate(out.logits):
        said = deep_model.model.embed_tokens(out.sequences[:, :step])
        longer = torch.cat([role, torch.zeros(step, dtype=torch.long)])
        expected, _ = reference(deep_model, torch.cat([embeds, said], dim=1), longer, METHODS[case])
        torch.testing.assert_close(logits[0], expected[-1], rtol=1e-4, atol=1e-4)
    lengths = [layer.get_seq_length() for layer in out.past_key_values.layers]
    text = embeds.shape[1] - VISUAL + len(out.logits) - 1
    counts = prune_stages(AOTConfig.from_dict(METHODS[case]), VISUAL, LAYERS)
    expected = [VISUAL] * counts[0].layer
    for stage in counts:
        expected = expected[: stage.layer] + [stage.keep] * (LAYERS - stage.layer)
    assert lengths == [text + count for count in expected]


@pytest.mark.parametrize("method", ["fastv", "pdrop"])
def test_nothing_dropped_changes_nothing(deep_model, video, method):
    plain = deep_model(IDS, images=[video], modalities=["video"]).logits
    said = deep_model.generate(IDS, images=[video], modalities="video", **GREEDY)
    assert deep_model.last_pruning == [] and deep_model.last_roles is None
    deep_model.config.aot = {"method": method, "retention": 1.0, "newlines": "all"}
    assert torch.equal(deep_model(IDS, images=[video], modalities=["video"]).logits, plain)
    assert torch.equal(deep_model.generate(IDS, images=[video], modalities="video", **GREEDY), said)
    assert [counts.layer_average for counts in deep_model.last_pruning] == [1.0]


def test_counts_are_reported_as_layer_averages(deep_model, video):
    deep_model.config.aot = METHODS["fastv"]
    measure = Measure(deep_model)
    deep_model.generate(IDS, images=[video], modalities="video", **GREEDY)
    measure.decoded(6, 0.1)
    assert measure.tokens()["layer_average"] == pytest.approx(516 / 1296, abs=1e-6)
    (counts,) = deep_model.last_pruning
    # 0.4 · 216 · 6 = 518 of which 432 go to the first two layers; 86 // 4 = 21
    assert counts.seen == [216, 216, 21, 21, 21, 21] and counts.method == "fastv"
    assert counts.layer_average == pytest.approx(516 / 1296) and counts.layer_average <= 0.4
    assert deep_model.last_compression[0].num_visual == VISUAL
    assert deep_model.last_compression[0].config.method == "fastv"
    entering = AOTConfig.from_dict(METHODS["fastv"]).token_count(6, 36, newline_position="frame")
    assert entering == (VISUAL, 6) and deep_model.last_roles.shape[1] == IDS.shape[1] - 1 + sum(entering)
    deep_model.generate(torch.tensor([[5, 6]]), **GREEDY)
    assert deep_model.last_pruning == []


@pytest.mark.parametrize("case", ["fastv", "pdrop last"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_its_rows(deep_model, video, side, case):
    """Rows of unlike length, number of visual tokens and kind; beams as well."""
    deep_model.config.tokenizer_padding_side, deep_model.config.aot = side, METHODS[case]
    rows = [torch.tensor([[5, 6, -200, 7]]), torch.tensor([[5, -200, 9, 8, 7, 6]]), torch.tensor([[5, 6, 7]])]
    videos = [video[:2], video]
    ids = torch.tensor([[5, 6, -200, 7, 0, 0], [5, -200, 9, 8, 7, 6], [5, 6, 7, 0, 0, 0]])
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6, [True] * 3 + [False] * 3])
    for beams in (1, 2):
        settings = {**GREEDY, "num_beams": beams}
        out = deep_model.generate(ids, images=videos, modalities="video", attention_mask=mask, **settings)
        assert [counts.visual for counts in deep_model.last_pruning] == [v for v in (72, 216) for _ in range(beams)]
        for number, (row, together) in enumerate(zip(rows, out, strict=True)):
            given = {"images": [videos[number]], "modalities": "video"} if number < 2 else {}
            assert torch.equal(deep_model.generate(row, **given, **settings)[0], together)


def test_images_are_never_dropped(deep_model, video):
    deep_model.config.aot = METHODS["fastv last"]
    ids = torch.tensor([[5, -200, 6, -200, 7]])
    images, modalities = [video[0], video], ["image", "video"]
    logits = deep_model(ids, images=images, modalities=modalities).logits[0]
    embeds, role = prepare(deep_model, ids, images, modalities)
    newlines = 6
    assert role.tolist()[: 1 + 145 + 1] == [Role.TEXT] * 147 and role[-1] == Role.QUERY
    assert int((role == Role.VISUAL).sum()) == VISUAL and len(role) == 147 + VISUAL + newlines + 1
    expected, kept = reference(deep_model, embeds, role, METHODS["fastv last"])
    assert kept[:147].all()
    torch.testing.assert_close(logits[kept], expected[kept], rtol=1e-4, atol=1e-4)


def test_an_answer_given_along_does_not_choose(deep_model, video):
    """With labels the last token of the question ranks, so that the likelihood of an answer is that of saying it."""
    deep_model.config.aot = METHODS["fastv"]
    said = deep_model.generate(IDS, images=[video], modalities="video", output_logits=True,
                               return_dict_in_generate=True, **GREEDY)  # fmt: skip
    whole = torch.cat([IDS, said.sequences], dim=1)
    labels = torch.cat([torch.full_like(IDS, -100), said.sequences], dim=1)
    output = deep_model(whole, labels=labels, images=[video], modalities=["video"])
    torch.testing.assert_close(output.logits[0, -6:-1], torch.stack(said.logits, 1)[0], rtol=1e-4, atol=1e-4)
    chances = output.logits[0, -6:-1].log_softmax(-1).gather(1, said.sequences.T)
    assert float(output.loss) == pytest.approx(-float(chances.mean()), rel=1e-4)


def test_several_tokens_may_follow_a_prompt(deep_model, video):
    deep_model.config.aot = METHODS["pdrop"]
    prompt = deep_model(IDS, images=[video], modalities=["video"], use_cache=True)
    together = deep_model(torch.tensor([[4, 3, 2]]), past_key_values=prompt.past_key_values).logits
    prompt = deep_model(IDS, images=[video], modalities=["video"], use_cache=True)
    for place, token in enumerate((4, 3, 2)):
        alone = deep_model(torch.tensor([[token]]), past_key_values=prompt.past_key_values).logits
        torch.testing.assert_close(together[:, place], alone[:, 0], rtol=1e-4, atol=1e-4)


def test_positions_may_be_given(deep_model, video):
    deep_model.config.aot = METHODS["pdrop"]
    embeds, role = prepare(deep_model, IDS, [video])
    positions = 3 + 2 * torch.arange(embeds.shape[1])[None]
    expected, kept = reference(deep_model, embeds, role, METHODS["pdrop"], positions)
    logits = deep_model(inputs_embeds=embeds, roles=role[None], position_ids=positions).logits[0]
    torch.testing.assert_close(logits[kept], expected[kept], rtol=1e-4, atol=1e-4)


def test_the_cache_is_the_callers(deep_model, video):
    """A given one is filled, one is made where use_cache (or the configuration) says so, and none is touched else."""
    deep_model.config.aot = METHODS["fastv"]
    asked = {"images": [video], "modalities": ["video"]}

    def lengths(cache):
        return [layer.get_seq_length() for layer in cache.layers]

    given = DynamicCache(config=deep_model.config)
    plain = deep_model(IDS, **asked, past_key_values=given, use_cache=True)
    assert plain.past_key_values is given and lengths(given)[0] > lengths(given)[-1]
    assert lengths(deep_model(IDS, **asked).past_key_values) == lengths(given)
    untouched = DynamicCache(config=deep_model.config)
    assert deep_model(IDS, **asked, past_key_values=untouched, use_cache=False).past_key_values is None
    assert deep_model(IDS, **asked, use_cache=False).past_key_values is None and untouched.get_seq_length() == 0
    deep_model.config.use_cache = False
    assert deep_model(IDS, **asked).past_key_values is None
    # one that was emptied begins anew
    given.crop(-given.get_seq_length())
    again = deep_model(IDS, **asked, past_key_values=given, use_cache=True)
    assert torch.equal(again.logits, plain.logits)


class OtherCache:
    def get_seq_length(self):
        return 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding attention"),
        ({"attention_mask": torch.ones(2, 1, 3, 3)}, "no other form"),
        ({"attention_mask": torch.ones(2)}, "no other form"),
        ({"attention_mask": {"full_attention": None}}, "no other form"),
        ({"cache": OtherCache()}, "need a DynamicCache; got a OtherCache"),
        ({"output_hidden_states": True}, "no stack"),
        ({"output_attentions": True}, "no stack"),
        ({}, None),
        ({"layer_types": ["full_attention"] * 2, "attention_mask": torch.ones(2, 3), "cache": DynamicCache()}, None),
        ({"output_hidden_states": False, "output_attentions": None}, None),
    ],
)
def test_what_dropping_cannot_be_combined_with(arguments, message):
    model = SimpleNamespace(config=SimpleNamespace(layer_types=arguments.pop("layer_types", None)))
    plain = model, arguments.pop("attention_mask", None), arguments.pop("cache", None), arguments
    if message is None:
        return _check_plain(*plain)
    with pytest.raises(ValueError, match=message):
        _check_plain(*plain)


def test_embeddings_need_their_roles(deep_model, video):
    deep_model.config.aot = METHODS["fastv"]
    logits = deep_model(IDS, images=[video], modalities=["video"]).logits
    embeds, role = prepare(deep_model, IDS, [video])
    assert torch.equal(deep_model(inputs_embeds=embeds, roles=role[None]).logits, logits)
    with pytest.raises(ValueError, match="roles=model.last_roles"):
        deep_model(inputs_embeds=embeds)
    with pytest.raises(ValueError, match="hidden states"):
        deep_model(IDS, images=[video], modalities=["video"], output_hidden_states=True)


def test_low_precision(make_model, video):
    model = make_model(num_hidden_layers=LAYERS).to(torch.bfloat16)
    model.config.aot = METHODS["pdrop"]
    out = model.generate(IDS, images=[video], modalities="video", output_logits=True, return_dict_in_generate=True,
                         **GREEDY)  # fmt: skip
    assert all(logits.isfinite().all() for logits in out.logits)


def test_other_instances_stay_as_they_are(deep_model, make_model, video):
    other = make_model(num_hidden_layers=LAYERS)
    plain = other(IDS, images=[video], modalities=["video"]).logits
    deep_model.config.aot = METHODS["fastv"]
    deep_model(IDS, images=[video], modalities=["video"])
    assert torch.equal(other(IDS, images=[video], modalities=["video"]).logits, plain)
    deep_model.config.aot = None
    assert torch.equal(deep_model(IDS, images=[video], modalities=["video"]).logits, plain)


def test_a_query_attends_to_no_later_token(deep_model):
    deep_model.set_attn_implementation("eager")  # gives its weights
    layer, hidden = deep_model.model.layers[0], torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    rotary = deep_model.model.rotary_emb(hidden, torch.arange(9)[None])
    query = torch.arange(9) == torch.tensor([[4], [8]])
    score = attention_of_query(layer, hidden, rotary, query, torch.ones_like(query))
    states, mask = layer.input_layernorm(hidden), visible(torch.ones(9, dtype=torch.bool))
    weights = layer.self_attn(states, position_embeddings=rotary, attention_mask=mask)[1].mean(1)
    torch.testing.assert_close(score, weights[[0, 1], [4, 8]])


def test_roles_by_hand():
    marks = [torch.tensor([[0.0], [1], [1], [0], [0]]), torch.tensor([[1.0], [0], [0]])]
    labels = [torch.tensor([-100, -100, -100, -100, 7]), torch.tensor([-100, -100, -100])]
    rows = list(zip(marks, labels, strict=True))
    assert roles_of(rows, 5, side="right").tolist() == [[0, 1, 1, 2, 0], [1, 0, 2, 0, 0]]
    assert roles_of(rows, 5, side="left").tolist() == [[0, 1, 1, 2, 0], [0, 0, 1, 0, 2]]


def test_choice_by_hand():
    score = torch.tensor([[0.9, 0.1, 0.3, 0.2, 0.0], [0.9, 0.9, 0.9, 0.8, 0.9]])
    role = torch.tensor([[0, 1, 1, 1, 2], [0, 1, 2, 1, 0]])
    valid = torch.tensor([[True] * 5, [False] + [True] * 3 + [False]])
    slots, kept = choose(score, role, valid, [2, 0], 4)
    assert slots[0].tolist() == [0, 2, 3, 4] and kept[0].all()
    assert slots[1].tolist()[:1] == [2] and kept[1].tolist() == [True, False, False, False]


def test_masks_by_hand(deep_model):
    hidden = torch.zeros(1, 2, 4)
    valid = torch.tensor([[True, False, True, True]])
    mask = attention_mask_for(deep_model.config, valid, hidden, full=False)
    assert mask[0, 0].tolist() == [[True, False, True, False], [True, False, True, True]]
    assert attention_mask_for(deep_model.config, valid | True, hidden[:, :1], full=True) is None
    assert attention_mask_for(deep_model.config, valid | True, hidden, full=True).shape == (1, 1, 2, 4)
    padded = attention_mask_for(deep_model.config, torch.tensor([[False, True]]), hidden, full=False)
    assert padded[0, 0].tolist() == [[True, False], [False, True]]
    flash = SimpleNamespace(_attn_implementation="flash_attention_2")
    assert attention_mask_for(flash, valid, hidden, full=True) is None
    assert attention_mask_for(flash, valid, hidden, full=False).tolist() == [[1, 0, 1, 1]]
    with pytest.raises(ValueError, match="under 'flex_attention' attention; load it with 'sdpa'"):
        attention_mask_for(SimpleNamespace(_attn_implementation="flex_attention"), valid, hidden, full=True)
