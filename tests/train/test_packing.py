"""Packed training sequences mean what the exchanges mean one by one."""

import pytest
import torch

from llava.train.clip_data import IGNORE, ClipConversations, FrameLabels, Mix, collate, draw
from llava.train.muon import Muon, orthogonalised
from llava.train.recipe import GEOMETRY, STAGES, new_model
from llava.train.tiny_tokenizer import save_tokenizer
from llava.train.train import SYSTEM
from llava.train.video_objective import VideoObjective

VISUAL = 16 * 37


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def model(tokenizer_folder):
    torch.manual_seed(0)
    model, tokenizer = new_model(tokenizer_folder)
    return model.eval(), tokenizer


def batch_of(tokenizer, samples):
    prefix = tokenizer(SYSTEM).input_ids
    return collate(samples, prefix=prefix, visual=VISUAL, pad=tokenizer.pad_token_id), prefix


def test_a_packed_exchange_scores_as_it_does_alone_in_the_model(model):
    model, tokenizer = model
    sample = ClipConversations(tokenizer, 1, Mix(1.0, 2, 1, 0))[0]
    batch, prefix = batch_of(tokenizer, [sample])
    hidden = {}
    objective = VideoObjective(model, len(prefix), tracking=0.0, stretch=0.0).eval()
    hook = model.model.register_forward_hook(lambda *a: hidden.update(out=a[-1].last_hidden_state))
    with torch.no_grad():
        objective(**batch)
        packed = hidden["out"]
        model.config._attn_implementation = "sdpa"
        at = len(prefix) + VISUAL
        for tokens in (s.tokens for s in sample["segments"]):
            ids = torch.tensor([[*prefix, -200, *tokens]])
            model(ids, images=[sample["pixels"]], modalities=["video"])
            alone = hidden["out"][0, -len(tokens) :]
            torch.testing.assert_close(packed[0, at : at + len(tokens)], alone, atol=2e-4, rtol=2e-4)
            at += len(tokens)
    hook.remove()


def test_text_only_exchanges_do_not_see_the_video(model):
    _, tokenizer = model
    sample = ClipConversations(tokenizer, 1, Mix(0.0, 0, 0, 1))[0]
    batch, prefix = batch_of(tokenizer, [sample])
    rows = batch["mask"][0, 0]
    assert not rows[:, len(prefix) : len(prefix) + VISUAL].any()
    assert rows[:, : len(prefix)].all()


def test_labels_are_the_answers_and_nothing_else(model):
    _, tokenizer = model
    samples = [ClipConversations(tokenizer, 3, Mix(1.0, 3, 2, 1))[i] for i in range(3)]
    batch, _ = batch_of(tokenizer, samples)
    for b, sample in enumerate(samples):
        said = [t for s in sample["segments"] for t in s.tokens[s.asked :]]
        assert batch["labels"][b][batch["labels"][b] != IGNORE].tolist() == said


def test_dense_labels_name_what_covers_the_patch():
    sample = FrameLabels(4)[1]
    things = sample["color"] > 0
    assert things.any() and ((sample["shape"] > 0) == things).all()
    assert sample["pixels"].shape == (8, 3, 96, 96) and sample["pixels"].abs().max() <= 1
    # the offsets of all patches of a thing point at one centre
    reach = sample["offset"][things].abs().max()
    assert 0 < reach < 12 * 0.15


def test_training_clips_are_repeatable():
    first, again = draw(10_000_123, [0.0, 5.0], 96, 12), draw(10_000_123, [0.0, 5.0], 96, 12)
    assert torch.equal(first[0], again[0]) and (first[1] == again[1]).all() and first[2] == again[2]


def test_orthogonalised_brings_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 8, 20), (2, 20, 8)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.3


def test_adam_side_of_the_optimizer_equals_adamw():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    a = Muon([{"params": [ours]}], lr=0.1)
    b = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.98), weight_decay=0.0)
    for _ in range(5):
        gradient = torch.randn(5)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs)


def test_the_model_is_small_enough(model):
    model, _ = model
    assert sum(p.numel() for p in model.parameters()) * 4 < 15e6
    assert GEOMETRY["mm_vision_config"]["image_size"] // GEOMETRY["mm_vision_config"]["patch_size"] == 12


def test_stages_see_different_clips():
    spans = sorted((s.first, s.first + s.steps * s.batch) for s in STAGES.values())
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
