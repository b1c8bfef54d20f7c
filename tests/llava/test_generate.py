import pytest
import torch

import aot
from llava.mm_utils import KeywordsStoppingCriteria

GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}


def test_only_new_tokens_come_back(model, video):
    ids = torch.tensor([[5, -200, 6, 7]])
    out = model.generate(ids, images=[video], modalities=["video"], **GREEDY)
    assert out.shape == (1, 6)
    by_name = model.generate(inputs=ids, images=[video.half()], modalities="video", image_sizes=None, **GREEDY)
    assert by_name.shape == (1, 6)
    assert model.generate(torch.tensor([[5, 6, 7]]), **GREEDY).shape == (1, 6)
    assert torch.equal(model.generate(input_ids=ids, images=[video], modalities=["video"], **GREEDY), out)


def test_generation_follows_the_forward_pass(model, video):
    ids = torch.tensor([[5, -200, 6, 7]])
    arguments = {"images": [video], "modalities": ["video"]}
    for token in model.generate(ids, **arguments, **GREEDY)[0].tolist():
        with torch.no_grad():
            logits = model(ids, **arguments).logits
        assert logits[0, -1].argmax() == token
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


@pytest.mark.parametrize("aot", [None, {"retention": 0.1}])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_its_rows(model, video, side, aot):
    model.config.tokenizer_padding_side, model.config.aot = side, aot
    rows = [torch.tensor([[5, 6, -200, 7]]), torch.tensor([[5, -200, 9, 8, 7, 6]])]
    videos = [video[:2], video]
    ids = torch.tensor([[5, 6, -200, 7, 0, 0], [5, -200, 9, 8, 7, 6]])
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    out = model.generate(ids, images=videos, modalities="video", attention_mask=mask, **GREEDY)
    for row, entry, together in zip(rows, videos, out, strict=True):
        alone = model.generate(row, images=[entry], modalities="video", **GREEDY)
        assert torch.equal(alone[0], together)


def test_a_text_batch_equals_its_rows(model):
    ids = torch.tensor([[5, 6, 0, 0], [9, 8, 7, 6]])
    out = model.generate(ids, attention_mask=ids != 0, **GREEDY)
    for row, together in zip((ids[:1, :2], ids[1:]), out, strict=True):
        assert torch.equal(model.generate(row, **GREEDY)[0], together)


def test_prefill_computes_logits_of_the_last_position_only(model, video):
    lengths = []
    hook = model.lm_head.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
    model.generate(torch.tensor([[5, -200, 6]]), images=[video], modalities="video", **GREEDY)
    hook.remove()
    assert lengths == [1] * 6


def test_the_video_is_encoded_once_for_all_new_tokens(model, video):
    calls = []
    model.get_vision_tower().encode = _counted(model.get_vision_tower().encode, calls)
    model.generate(torch.tensor([[5, -200, 6]]), images=[video], modalities="video", **GREEDY)
    assert len(calls) == 1


def _counted(function, calls):
    def wrapped(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    return wrapped


def test_statistics_are_of_the_last_call(model, video):
    model.config.aot = {"retention": 0.1}
    model.generate(torch.tensor([[5, -200, 6]]), images=[video], modalities="video", **GREEDY)
    assert model.last_compression[0].summary()["tokens_after"] == 21 and model.last_timing["compress"] > 0
    model.generate(torch.tensor([[5, 6]]), **GREEDY)
    assert model.last_compression == [] and set(model.last_timing.values()) == {0.0}


def test_an_applied_reduction_says_its_seconds(model, video):
    with aot.apply(model, retention=0.1) as applied:
        model.generate(torch.tensor([[5, -200, 6]]), images=[video], modalities="video", **GREEDY)
        assert applied.last[0].num_visual == 21 and applied.seconds == model.last_timing["compress"] / 1e3 > 0
        assert applied.tower_share == 1


def test_keywords_end_the_answer(model, tokenizer):
    free = model.generate(torch.tensor([[5, 6, 7]]), **GREEDY)
    word = tokenizer.decode(free[0, 1])
    until = free[0].tolist().index(free[0, 1].item()) + 1
    stop = KeywordsStoppingCriteria([word], tokenizer, torch.tensor([[5, 6, 7]]))
    out = model.generate(torch.tensor([[5, 6, 7]]), stopping_criteria=[stop], **GREEDY)
    assert torch.equal(out, free[:, :until])


def test_prompt_ids_are_required(model):
    with pytest.raises(ValueError, match="inputs="):
        model.generate(max_new_tokens=1)
    with pytest.raises(ValueError, match="inputs_embeds"):
        model.generate(torch.tensor([[5]]), inputs_embeds=torch.zeros(1, 1, 32))


@torch.no_grad()
def test_packed_rows_with_their_own_mask_and_positions(model):
    """Two texts in one row, kept apart by a 4-D mask and their own positions, equal the texts alone."""
    first, second = torch.tensor([[5, 6, 7]]), torch.tensor([[9, 8, 7, 6, 5]])
    embeds = model.model.embed_tokens(torch.cat([first, second], dim=1))
    owner = torch.tensor([0] * 3 + [1] * 5)
    allowed = (owner[:, None] == owner[None]) & torch.ones(8, 8, dtype=torch.bool).tril()
    mask = torch.zeros(1, 1, 8, 8).masked_fill(~allowed, torch.finfo(torch.float32).min)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    packed = model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(packed[:, :3], model(first).logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed[:, 3:], model(second).logits, rtol=1e-4, atol=1e-5)


def test_training_reaches_tower_projector_and_newline(make_model, video):
    model = make_model().train()
    ids = torch.tensor([[5, -200, 6, 7]])
    model(ids, labels=ids, images=[video], modalities=["video"], use_cache=False).loss.backward()
    tower = model.get_vision_tower().vision_tower.vision_model
    for parameter in (
        tower.embeddings.patch_embedding.weight,
        tower.encoder.layers[-1].mlp.fc2.weight,
        model.model.mm_projector[0].weight,
        model.model.image_newline,
        model.model.embed_tokens.weight,
    ):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
