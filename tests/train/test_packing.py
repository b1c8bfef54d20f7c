"""Packed training sequences mean what the exchanges mean one by one."""

import pytest
import torch

from llava.train.clip_data import IGNORE, FrameLabels, draw, owners
from llava.train.muon import Muon, orthogonalised
from llava.train.packing import ClipConversations, Mix, TextConversations, collate
from llava.train.recipe import GEOMETRY, STAGES, TRACKED_LAYER, new_model
from llava.train.tiny_tokenizer import save_tokenizer
from llava.train.train import SYSTEM
from llava.train.video_objective import VideoObjective

SMALL = Mix(open=2, short=1, long=1, text=0, caption=0.0)  # the last row is then answered from text


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


def conversations(tokenizer, mix=SMALL, **settings):
    return ClipConversations(tokenizer, 8, mix, size=96, grid=12, start=0, **settings)


def batch_of(tokenizer, samples, rows):
    prefix = tokenizer(SYSTEM).input_ids
    return collate(samples, prefix=prefix, rows=rows, pad=tokenizer.pad_token_id), prefix


def hidden_states(model, batch, **changes):
    """Last hidden states of the packed batch."""
    kept = {}
    objective = VideoObjective(model, [1], layer=TRACKED_LAYER, tracking=0.0, stretch=0.0).eval()
    hook = model.model.register_forward_hook(lambda *a: kept.update(out=a[-1].last_hidden_state))
    with torch.no_grad():
        objective(**batch | changes)
    hook.remove()
    model.config._attn_implementation = "sdpa"
    return kept["out"]


def row_starts(batch):
    at = batch["layout"].head
    for count, size in batch["layout"].rows:
        for _ in range(count):
            yield at
            at += size


def test_a_packed_exchange_scores_as_it_does_alone_in_the_model(model):
    model, tokenizer = model
    sample = conversations(tokenizer)[0]
    batch, prefix = batch_of(tokenizer, [sample], SMALL.rows)
    packed, kept = hidden_states(model, batch), {}
    hook = model.model.register_forward_hook(lambda *a: kept.update(out=a[-1].last_hidden_state))
    for part, at in zip(sample["segments"], row_starts(batch), strict=True):
        if part.video:
            with torch.no_grad():
                ids = torch.tensor([[*prefix, -200, *part.tokens]])
                model(ids, images=[sample["pixels"]], modalities=["video"])
            alone = kept["out"][0, -len(part.tokens) :]
            torch.testing.assert_close(packed[0, at : at + len(part.tokens)], alone, atol=2e-4, rtol=2e-4)
    hook.remove()


def test_only_a_text_row_is_blind_to_the_video(model):
    model, tokenizer = model
    sample = conversations(tokenizer)[0]
    batch, _ = batch_of(tokenizer, [sample], SMALL.rows)
    other = hidden_states(model, batch, pixels=-batch["pixels"])
    same = hidden_states(model, batch)
    for part, at in zip(sample["segments"], row_starts(batch), strict=True):
        change = (other - same)[0, at : at + len(part.tokens)].abs().max()
        assert (change == 0) != part.video
    assert [part.video for part in sample["segments"]] == [True] * 4 + [False]


def test_coarse_frames_have_the_tokens_they_say(model):
    model, tokenizer = model
    data = conversations(tokenizer, coarse=1.0, batch=2)
    sides = data.sides(2)
    assert sides == data.sides(3) and len(set(sides)) > 1
    samples = [data[2], data[3]]
    batch, prefix = batch_of(tokenizer, samples, SMALL.rows)
    assert batch["layout"].head == len(prefix) + sum(s * s + 1 for s in sides)
    assert batch["motion"].shape == (2, sum(s * s for s in sides))
    out = VideoObjective(model, [1], layer=TRACKED_LAYER)(**batch)
    assert torch.isfinite(out["loss"])
    model.config._attn_implementation = "sdpa"


def test_owners_of_coarse_cells_are_among_those_of_fine_ones():
    _, cover, _ = draw(10_000_005, [0.0, 8.0], 96, 12)
    fine, coarse = owners(cover, 6), owners(cover, 3)
    for frame in range(2):
        assert set(coarse[frame].ravel()) - {-1, IGNORE} <= set(fine[frame].ravel())


def test_labels_are_the_answers_and_nothing_else(model):
    _, tokenizer = model
    data = conversations(tokenizer, Mix(3, 2, 1, 2, 0.5))
    samples = [data[i] for i in range(3)]
    batch, _ = batch_of(tokenizer, samples, data.mix.rows)
    for b, sample in enumerate(samples):
        said = [t for s in sample["segments"] for t, learnt in zip(s.tokens, s.learnt, strict=True) if learnt]
        assert batch["labels"][b][batch["labels"][b] != IGNORE].tolist() == said


def test_an_exchange_that_does_not_fit_its_row_is_refused(model):
    _, tokenizer = model
    sample = conversations(tokenizer)[0]
    with pytest.raises(ValueError, match="does not fit"):
        batch_of(tokenizer, [sample], ((5, 20),))


def test_text_rows_fit_and_end_in_an_answer(model):
    _, tokenizer = model
    sample = TextConversations(tokenizer, 2, rows=(6, 208), start=0, matching=0.5, bare=0.5)[1]
    batch, prefix = batch_of(tokenizer, [sample], ((6, 208),))
    assert batch["ids"].shape == (1, len(prefix) + 6 * 208)
    ends = [s.tokens[-1] for s in sample["segments"]]
    assert ends == [tokenizer.convert_tokens_to_ids("<|im_end|>")] * 6


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
    assert sum(p.numel() for p in model.parameters()) * 2 < 15e6  # stored as float16
    assert GEOMETRY["mm_vision_config"]["image_size"] // GEOMETRY["mm_vision_config"]["patch_size"] == 12


def test_stages_see_different_clips():
    spans = sorted((s.first, s.first + s.steps * s.batch) for s in STAGES.values())
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
