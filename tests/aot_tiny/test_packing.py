"""Packed training sequences mean what the exchanges mean one by one."""

import dataclasses

import numpy as np
import pytest
import torch

from aot_tiny.film.clips import SHAPES, Camera, Clip, Thing, sample_clip, sample_signs
from aot_tiny.film.questions import make_questions, shown
from aot_tiny.shapes import clips as shapes_clips
from aot_tiny.shapes import questions as shapes_questions
from aot_tiny.training import recipe
from aot_tiny.training.data import COLOR_NAMES, IGNORE, SHAPE_NAMES, TRAIN_SEEDS, FrameLabels, draw, tracks
from aot_tiny.training.muon import Muon, orthogonalised
from aot_tiny.training.objective import VideoObjective
from aot_tiny.training.packing import GUIDES, ClipConversations, Density, Mix, collate
from aot_tiny.training.recipe import GEOMETRY, STAGES, TRACKED_LAYER, new_model
from aot_tiny.training.tokenizer import save_tokenizer
from aot_tiny.training.train import SYSTEM
from aot_tiny.worlds import WORLDS

SMALL = Mix(open=2, short=1, long=1, text=0, caption=0.0)  # the last row is then answered from text
WHOLE = Density(((16, 1.0),))
SIDE = 6  # of a frame's pooled grid here, half of the real one: pictures of 96 pixels
CLIP = Clip(
    seed=1, frames=16, cuts=(0.0,), cameras=(Camera("still"),),
    things=(
        Thing("circle", "red", 0.1, (0.2, 0.2), (0.7, 0.2), 0.0, 16.0, begin=1.0, end=12.0,
              color_after="blue", change=6.0),
        Thing("square", "green", 0.1, (0.8, 0.8), (0.8, 0.8), on=9.0, off=13.0),
    ),
    needle=Thing("star", "white", 0.1, (0.2, 0.8), (0.2, 0.8), on=1.7, off=2.3),
    sign=Thing("sign", "white", 0.15, (0.5, 0.6), (0.5, 0.6), 3.6, 8.6, code="47"),
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def model(tokenizer_folder):
    torch.manual_seed(0)
    small = GEOMETRY | {"mm_vision_config": GEOMETRY["mm_vision_config"] | {"image_size": 96}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "GEOMETRY", small)
        model, tokenizer = new_model(tokenizer_folder)
    return model.eval(), tokenizer


def conversations(model, mix=SMALL, density=WHOLE, world="film", **settings):
    """Clips as a model and its tokenizer see them; `seen` holds the pixels that the tower was shown, clip by clip."""
    model, tokenizer = model
    data = ClipConversations(tokenizer, 8, WORLDS[world], mix, density, size=96, grid=2 * SIDE, start=0, **settings)
    data.seen, tower = [], model.get_vision_tower()
    data.tower = lambda pixels: data.seen.append(pixels) or tower(pixels)
    return data


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
    data = conversations(model)
    (model, tokenizer), sample = model, data[0]
    batch, prefix = batch_of(tokenizer, [sample], SMALL.rows)
    packed, kept = hidden_states(model, batch), {}
    hook = model.model.register_forward_hook(lambda *a: kept.update(out=a[-1].last_hidden_state))
    for part, at in zip(sample["segments"], row_starts(batch), strict=True):
        if part.video:
            with torch.no_grad():
                ids = torch.tensor([[*prefix, -200, *part.tokens]])
                model(ids, images=data.seen, modalities=["video"])
            alone = kept["out"][0, -len(part.tokens) :]
            torch.testing.assert_close(packed[0, at : at + len(part.tokens)], alone, atol=2e-4, rtol=2e-4)
    hook.remove()


def test_only_a_text_row_is_blind_to_the_video(model):
    sample, (model, tokenizer) = conversations(model)[0], model
    batch, _ = batch_of(tokenizer, [sample], SMALL.rows)
    other = hidden_states(model, batch, features=-batch["features"])
    same = hidden_states(model, batch)
    for part, at in zip(sample["segments"], row_starts(batch), strict=True):
        change = (other - same)[0, at : at + len(part.tokens)].abs().max()
        assert (change == 0) != part.video
    assert [part.video for part in sample["segments"]] == [True] * 4 + [False]


def test_a_batch_shares_its_length_and_its_share_of_tokens(model):
    data = conversations(model, density=Density(((16, 0.5), (24, 0.5)), ((1.0, 0.2, 1.0),), most=400), batch=2)
    (model, tokenizer), samples = model, [data[2], data[3]]
    kept, frames = len(samples[0]["keep"]), len(samples[0]["features"])
    assert len(samples[1]["keep"]) == kept and len(samples[1]["features"]) == frames
    assert 0.2 * 400 - 1 <= kept <= 400 and not torch.equal(samples[0]["keep"], samples[1]["keep"])
    batch, prefix = batch_of(tokenizer, samples, SMALL.rows)
    assert batch["layout"].head == len(prefix) + kept + frames  # every frame keeps its newline
    assert batch["motion"].shape == (2, kept)
    out = VideoObjective(model, [1], layer=TRACKED_LAYER)(**batch)
    assert torch.isfinite(out["loss"])
    model.config._attn_implementation = "sdpa"


def test_kept_tokens_stand_in_their_order_and_bring_their_labels(model):
    """The head of a thinned sequence equals the whole one without what was dropped, labels too."""
    whole = conversations(model)[1]
    thin = conversations(model, density=Density(((16, 1.0),), ((1.0, 0.3, 1.0),)))[1]
    (model, _), keep = model, thin["keep"]
    for name in ("motion", "color", "shape", "place"):
        assert torch.equal(thin["tracks"][name], whole["tracks"][name][keep])
    objective = VideoObjective(model, [1], layer=TRACKED_LAYER).eval()
    with torch.no_grad():
        every, line = objective._visual(whole["features"][None], whole["keep"][None])
        some, thin_line = objective._visual(thin["features"][None], keep[None])
    model.config._attn_implementation = "sdpa"
    cells = every[0][~line[0]]
    assert torch.equal(some[0][~thin_line[0]], cells[keep]) and int(thin_line.sum()) == 16
    # a newline stands behind the kept tokens of its frame
    frame = keep // SIDE**2
    behind = thin_line[0].nonzero()[:, 0] - torch.arange(16)
    assert torch.equal(behind, (frame[None] <= torch.arange(16)[:, None]).sum(1))


def test_a_clip_comes_again_with_other_questions_and_the_features_it_had(model, tmp_path):
    data = conversations(model, density=Density(((16, 0.5), (24, 0.5)), ((1.0, 0.2, 1.0),)), batch=2, passes=2)
    data.store = tmp_path
    first, again, other = data[1], data[5], data[2]
    assert data.clips == 4 and len(data.seen) == 2 and len(list(tmp_path.iterdir())) == 2  # seen once, kept whole
    assert torch.equal(first["features"], again["features"])
    assert first["features"].shape != other["features"].shape or not torch.equal(first["features"], other["features"])
    assert len(first["keep"]) != len(again["keep"])
    assert [s.tokens for s in first["segments"]] != [s.tokens for s in again["segments"]]
    # labels that both keep are the same
    both = set(first["keep"].tolist()) & set(again["keep"].tolist())
    one, two = (dict(zip(s["keep"].tolist(), s["tracks"]["color"].tolist(), strict=True)) for s in (first, again))
    assert both and all(one[place] == two[place] for place in both)
    data.store = None  # without one they are made again
    assert torch.equal(data[5]["features"], again["features"]) and len(data.seen) == 3


def test_labels_are_the_answers_and_nothing_else(model):
    _, tokenizer = model
    data = conversations(model, Mix(3, 2, 1, 2, 0.5))
    samples = [data[i] for i in range(3)]
    batch, _ = batch_of(tokenizer, samples, data.mix.rows)
    for b, sample in enumerate(samples):
        said = [t for s in sample["segments"] for t, learnt in zip(s.tokens, s.learnt, strict=True) if learnt]
        assert batch["labels"][b][batch["labels"][b] != IGNORE].tolist() == said


def test_an_exchange_that_does_not_fit_its_row_is_refused(model):
    _, tokenizer = model
    sample = conversations(model)[0]
    with pytest.raises(ValueError, match="does not fit"):
        batch_of(tokenizer, [sample], ((5, 20),))


def test_guides_point_at_the_name_the_evidence_and_the_option(model):
    _, tokenizer = model
    data = conversations(model, Mix(3, 2, 1, 2, 0.0))
    sample = data[3]
    batch, prefix = batch_of(tokenizer, [sample], data.mix.rows)
    guides, clip = batch["guides"], sample_clip(TRAIN_SEEDS + 3, frames=16)
    questions = {q.text: q for q in make_questions(clip)}
    for r, part in enumerate(sample["segments"]):
        prompt = tokenizer.decode(part.tokens[: part.query + 1])
        assert batch["ids"][0, guides.query[0, r]] == part.tokens[part.query]
        assert prompt.endswith("assistant\n")
        told = {
            g: tokenizer.decode(batch["ids"][0][t[0, r]]).strip() for g, t in guides.targets.items() if g != "evidence"
        }
        evidence = guides.targets["evidence"][0, r]
        if not part.video:
            answer = prompt.split("The answer is ")[1].split(".")[0]
            assert told["name"] == answer and told["option"] in ("", answer) and not evidence.any()
            continue
        question = next(q for text, q in questions.items() if text in prompt)
        assert told["name"] == question.named
        assert told["option"] == (question.answer if "A" in prompt and "B" in prompt else "")
        places = evidence.nonzero()[:, 0] - len(prefix)
        frames = sorted(set((places // 37).tolist()))  # 36 tokens and a newline a frame
        assert set(frames) <= set(question.evidence.frames)
        if question.evidence.thing is None:
            assert (places % 37 == 36).all() and len(places) == len(question.evidence.frames)
        else:
            thing = clip.drawn[question.evidence.thing]
            for place in places.tolist():  # a cell lies within reach of the thing's centre
                x, y = clip.center(thing, clip.times[place // 37])
                row, column = divmod(place % 37, 6)
                assert abs((column + 0.5) / 6 - x) < 0.25 and abs((row + 0.5) / 6 - y) < 0.25


def test_the_guides_loss_is_the_attention_of_the_model(model):
    data = conversations(model, dataclasses.replace(SMALL, caption=1.0))
    (model, tokenizer), sample = model, data[0]
    batch, prefix = batch_of(tokenizer, [sample], SMALL.rows)
    hidden_states(model, batch)
    _, seen = batch["guides"].loss()
    model.config._attn_implementation = "eager"
    expected = {name: [] for name in GUIDES}
    for r, part in enumerate(sample["segments"]):
        ids = torch.tensor([[*prefix, -200, *part.tokens]])
        with torch.no_grad():
            out = model(ids, images=data.seen, modalities=["video"], output_attentions=True)
        for name, layer in GUIDES.items():
            target = batch["guides"].targets[name][0, r]
            if target.any():
                head, row = batch["layout"].head, int(batch["guides"].query[0, r]) - part.query
                places = torch.cat([target[:head].nonzero()[:, 0], target[head:].nonzero()[:, 0] + 2 * head - row])
                expected[name].append(out.attentions[layer][0, 0, head + part.query, places].sum())
    model.config._attn_implementation = "sdpa"
    for name in GUIDES:
        torch.testing.assert_close(seen[f"look_{name}"], torch.stack(expected[name]).mean(), atol=1e-5, rtol=1e-3)


def test_what_frames_are_asked_follows_the_clip():
    """CLIP: a red circle turns blue at 6 s, a green square is there from 9 to 13 s, a white star flashes at 2 s, a sign
    says 47 from 4 to 8 s."""
    _, labels = tracks(CLIP, np.full((16, 2, 2), -1))
    red, green, white, blue = (COLOR_NAMES.index(c) for c in ("red", "green", "white", "blue"))
    star, sign, turned, came, went = (shown(CLIP, t) for t in (1.7, 3.6, 6.0, 9.0, 13.0))
    count = len(COLOR_NAMES)
    events = {tuple(place) for place in np.argwhere(labels["events"].numpy())}
    assert events == {
        (star, white), (star, 5 * count), (star + 1, count + white), (star + 1, 3 * count + white),
        (sign, 5 * count + 2), (turned, 2 * count + blue), (turned, 4 * count + red),
        (came, green), (went, count + green), (went, 3 * count + green),
    }  # fmt: skip
    last = CLIP.frames - 1
    assert labels["things"][[0, star, came], 0].tolist() == [1, 2, 3]
    assert labels["inside"][[0, star, came, last], 0].tolist() == [1, 2, 2, 1]
    assert labels["news"][[0, star, last]].tolist() == [
        [count, count, count], [white, white, count], [white, green, white],
    ]  # fmt: skip
    assert labels["shapes"][last].tolist() == [int(s in ("circle", "square")) for s in SHAPES]
    assert labels["code"][[sign - 1, sign]].tolist() == [[10, 10], [4, 7]]
    assert labels["index"][:, 0].tolist() == list(range(16))


def test_tokens_of_a_sign_are_asked_the_digit_on_their_side():
    """Its middle is at 0.5, so of five columns the third is on neither side."""
    owner = np.full((16, 5, 5), -1)
    owner[4:8, 2, 1:4] = 3  # the sign is the fourth thing
    digits = tracks(CLIP, owner)[0]["digit"].view(16, 5, 5)
    assert digits[4:8, 2].tolist() == [[IGNORE, 4, IGNORE, 7, IGNORE]] * 4
    assert (digits != IGNORE).sum() == 8


def test_dense_labels_name_what_covers_the_patch():
    sample = FrameLabels(4, size=96, grid=12, frames=8)[1]
    things = sample["color"] > 0
    assert things.any() and ((sample["shape"] > 0) == things).all()
    assert sample["pixels"].shape == (8, 3, 96, 96) and sample["pixels"].abs().max() <= 1
    # the offsets of all patches of a thing point at one centre
    reach = sample["offset"][things].abs().max()
    assert 0 < reach < 12 * 0.28


def test_training_clips_are_repeatable():
    first, again = (draw(WORLDS["film"], sample_clip(10_000_123), 96, 12, some=2) for _ in range(2))
    assert torch.equal(first[0], again[0]) and (first[1] == again[1]).all() and (first[2] == again[2]).all()


def test_clips_of_shapes_are_asked_what_they_settle_and_labelled_where_things_lie(model):
    _, tokenizer = model
    sample = conversations(model, Mix(open=4, short=4, long=2), world="shapes")[2]
    clip = shapes_clips.sample_clip(TRAIN_SEEDS + 2)
    texts = [q.text for q in shapes_questions.make_questions(clip)]
    for part in sample["segments"]:
        if part.video and part.evidence is not None:
            assert any(text in tokenizer.decode(part.tokens) for text in texts)
    # a thing's middle is in a cell that carries its colour
    color = sample["tracks"]["color"].view(16, SIDE, SIDE)
    for thing in clip.all_things:
        for i, t in enumerate(clip.times):
            if thing.visible(t):
                x, y = (int(c * SIDE) for c in thing.center(t))
                assert color[i, y, x] == COLOR_NAMES.index(thing.color_at(t))
    with pytest.raises(ValueError, match="have 16 frames, not 24"):
        shapes_clips.sample_clip(2, frames=24)


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
    assert GEOMETRY["mm_vision_config"]["image_size"] // GEOMETRY["mm_vision_config"]["patch_size"] == 24


def test_stages_see_different_clips():
    spans = sorted((s.first, s.first + s.steps * s.batch) for s in STAGES.values())
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_every_other_sample_of_the_tower_stage_shows_signs_alone():
    frames = FrameLabels(2, size=96, grid=12, frames=4)
    clip = sample_signs(TRAIN_SEEDS + 1)
    assert len(clip.drawn) == 16 and all(sum(t.visible(s) for t in clip.drawn) == 4 for s in clip.times)
    signs = frames[1]
    assert set(signs["shape"].unique().tolist()) <= {IGNORE, 0, 1 + SHAPE_NAMES.index("sign")}
    digits = signs["digit"]
    assert len(digits[digits > 0].unique()) > 4 and not torch.equal(digits[0], digits[-1])
