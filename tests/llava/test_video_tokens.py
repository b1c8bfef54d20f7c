"""Videos in the sequence: newline modes, compression, several videos and images in one call."""

import pytest
import torch

from aot import AOTConfig, AOTError, registry
from aot.types import Selection
from llava.model.compression import VideoFeatures

from .conftest import tiny_config

POOLED = {"bilinear": (6, 6), "average": (6, 6), "max": (6, 6)}
NEWLINES = ("one_token", "grid", "frame", "no_token")


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def prepare(model, ids, images, modalities, **kwargs):
    ids = torch.as_tensor(ids)
    return model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, images, modalities, **kwargs)[4]


def spoil_frame(frame: int, *, of: int):
    """A forward hook that makes the first token of a frame NaN in every video of `of` frames, however they come."""
    seen = 0

    def spoil(module, args, output):
        nonlocal seen
        if seen <= frame < seen + len(output):
            output[frame - seen, 0] = torch.nan
        seen = (seen + len(output)) % of

    return spoil


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("pool", POOLED)
def test_uncompressed_order(model, video, pool, newline):
    model.config.mm_spatial_pool_mode, model.config.mm_newline_position = pool, newline
    tokens, result = model.video_tokens(model.encode_video(video))
    height, width = POOLED[pool]
    marker = model.model.image_newline
    is_newline = (tokens == marker).all(dim=-1).nonzero().flatten().tolist()
    expected = {
        "one_token": [6 * height * width],
        "grid": [i * (width + 1) + width for i in range(6 * height)],
        "frame": [i * (height * width + 1) + height * width for i in range(6)],
        "no_token": [],
    }[newline]
    assert result is None and is_newline == expected
    assert len(tokens) == 6 * height * width + len(expected)


def test_pooling_of_odd_grids(make_model, video):
    odd = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = make_model(mm_vision_config={**odd, "image_size": 40, "patch_size": 8}, mm_newline_position="no_token")
    features = model.encode_video(video[:, :, :40, :40])
    assert features.grid == (5, 5)
    for pool, side in (("bilinear", 3), ("average", 2), ("max", 2)):
        model.config.mm_spatial_pool_mode = pool
        assert len(model.video_tokens(features)[0]) == 6 * side * side
    average = features.features.view(6, 5, 5, -1)[0, :2, :2].mean((0, 1))
    model.config.mm_spatial_pool_mode = "average"
    torch.testing.assert_close(model.video_tokens(features)[0][0], average)


@pytest.mark.parametrize("retention", [0.02, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("newline", NEWLINES)
def test_the_sequence_holds_the_announced_counts(model, video, retention, newline):
    model.config.mm_newline_position = newline
    model.config.aot = {"retention": retention}
    embeds = prepare(model, [[5, 6, -200, 7]], [video], ["video"])
    visual, newlines = AOTConfig(retention=retention).token_count(6, 36, newline_position=newline)
    assert embeds.shape[1] == 3 + visual + newlines
    (result,) = model.last_compression
    assert (result.num_visual, result.num_newlines) == (visual, newlines)
    assert torch.equal(embeds[0, 2:-1], result.tokens)
    assert torch.equal(embeds[0, :2], model.model.embed_tokens(torch.tensor([5, 6])))
    assert torch.equal(embeds[0, -1], model.model.embed_tokens(torch.tensor(7)))


@pytest.mark.parametrize("newline", NEWLINES)
def test_full_retention_changes_nothing(model, video, newline):
    model.config.mm_newline_position = newline
    plain = prepare(model, [[5, -200, 6]], [video], ["video"])
    model.config.aot = AOTConfig(retention=1.0, newlines="all").to_dict()
    assert torch.equal(prepare(model, [[5, -200, 6]], [video], ["video"]), plain)


def test_settings_are_read_at_every_call(model, video):
    lengths = []
    for aot in (None, {"retention": 0.1}, {"retention": 0.25}, AOTConfig(retention=0.1), None):
        model.config.aot = aot
        lengths.append(prepare(model, [[-200]], [video], "video").shape[1])
    assert lengths == [222, 21 + 6, 54 + 6, 21 + 6, 222]
    assert model.last_compression == []


@pytest.mark.parametrize("aot", [{"retention": 2}, {"colour": 1}, {"method": "nothing"}])
def test_bad_settings_are_refused(model, aot):
    with pytest.raises(AOTError):
        model.config.aot = aot
    assert model.config.aot is None


@pytest.mark.parametrize("settings", [{"mm_newline_position": "row"}, {"mm_spatial_pool_mode": "median"}])
@pytest.mark.parametrize("aot", [None, {"retention": 0.5}])
def test_unknown_modes_are_refused(model, video, settings, aot):
    model.config.update(settings)
    model.config.aot = aot
    with pytest.raises(ValueError, match="Unknown"):
        prepare(model, [[-200]], [video], ["video"])


def test_images_are_never_altered(model, video):
    ids = [[5, -200, 6, -200, 7, -200]]
    image, other = video[0], video[1:2]
    entries, modalities = [image, video, other], ["image", "video", "image"]
    plain = prepare(model, ids, entries, modalities)
    model.config.aot = {"retention": 0.1}
    compressed = prepare(model, ids, entries, modalities)
    one_image = 144 + 1
    assert plain.shape[1] == 3 + 2 * one_image + 222 and compressed.shape[1] == 3 + 2 * one_image + 27
    assert torch.equal(plain[:, : one_image + 2], compressed[:, : one_image + 2])
    assert torch.equal(plain[:, -one_image - 1 :], compressed[:, -one_image - 1 :])
    assert len(model.last_compression) == 1


def test_text_is_never_altered(model):
    ids = torch.tensor([[5, 6, 7]])
    plain = model(ids).logits
    model.config.aot = {"retention": 0.1}
    assert torch.equal(model(ids).logits, plain)


def test_each_video_is_compressed_on_its_own(model, video):
    model.config.aot = {"retention": 0.2}
    short = video[:4].flip(0)
    together = prepare(model, [[-200, -200]], [video, short], ["video", "video"])
    assert [result.frames for result in model.last_compression] == [6, 4]
    apart = [prepare(model, [[-200]], [entry], ["video"]) for entry in (video, short)]
    torch.testing.assert_close(together, torch.cat(apart, dim=1), rtol=1e-4, atol=1e-5)


@pytest.fixture
def first_tokens():
    """A method "first_tokens" whose declared inputs and seen extras a test may read; gone afterwards."""
    seen = {}

    def run(video, config):
        seen.update(video.extras, maps=(video.shallow, video.deep))
        index = torch.arange(config.budget(video.frames, video.tokens_per_frame))
        return Selection.from_indices(video.pooled.flatten(0, 1)[index], index, video.pooled_grid)

    def declare(needs):
        registry.METHODS.pop("first_tokens", None)
        registry.register("first_tokens", requires=needs)(run)
        return seen

    yield declare
    registry.METHODS.pop("first_tokens", None)


def test_methods_get_the_tower_outputs_they_declare(model, video, first_tokens):
    seen = first_tokens(("attention_last", "keys"))
    model.config.aot = {"retention": 0.1, "method": "first_tokens"}
    direct = prepare(model, [[-200]], [video], "video")
    assert seen["maps"] == (None, None)
    tower = model.get_vision_tower().encode(video, received=(4,), keys=(4,))
    assert torch.equal(seen["attention_last"], tower.received[4]) and seen["attention_last"].shape == (6, 144)
    assert torch.equal(seen["keys"], tower.keys[4]) and seen["keys"].shape == (6, 144, 12)
    features = model.encode_video(video)
    assert {*features.outputs} == {"attention_last", "keys"}
    assert torch.equal(model.video_tokens(features)[0], direct[0])


def test_methods_that_declare_nothing_cost_no_attention(model, video, first_tokens, monkeypatch):
    first_tokens(())
    monkeypatch.setattr("llava.model.multimodal_encoder.tower_layers.received_attention", None)
    model.config.aot = {"retention": 0.1, "method": "first_tokens"}
    assert prepare(model, [[-200]], [video], "video").shape[1] == 27


def test_unknown_tower_outputs_are_refused(model, video, first_tokens):
    first_tokens(("gradients",))
    model.config.aot = {"retention": 0.1, "method": "first_tokens"}
    with pytest.raises(ValueError, match="'gradients'"):
        prepare(model, [[-200]], [video], "video")


@pytest.mark.parametrize("aot", [None, {"retention": 0.1}])
def test_a_video_encoded_once_gives_the_same_tokens(model, video, aot):
    features = model.encode_video(video)
    assert features.features.shape == (6, 144, 32) and features.grid == (12, 12)
    assert features.outputs == {}
    model.config.aot = aot
    direct = prepare(model, [[5, -200, 6]], [video], ["video"])
    assert model.last_timing["tower"] > 0
    assert torch.equal(prepare(model, [[5, -200, 6]], [features], ["video"]), direct)
    assert model.last_timing["tower"] == model.last_timing["projector"] == 0
    assert (model.last_timing["compress"] > 0) == (aot is not None)
    tokens, result = model.video_tokens(features)
    assert torch.equal(tokens, direct[0, 1:-1]) and (result is None) == (aot is None)


def test_encoded_videos_and_pixels_share_a_call(model, video):
    model.config.aot = {"retention": 0.1}
    entries = [model.encode_video(video), video[0], video]
    embeds = prepare(model, [[-200, -200, -200]], entries, ["video", "image", "video"])
    assert embeds.shape[1] == 27 + 145 + 27
    assert torch.equal(embeds[:, :27], embeds[:, -27:])


def test_features_without_attention_are_enough_where_it_is_not_read(model, video):
    bare = VideoFeatures(model.encode_images(video), (12, 12))
    assert model.video_tokens(bare)[0].shape == (222, 32)
    model.config.aot = {"retention": 0.1}
    assert model.video_tokens(bare)[0].shape == (27, 32)
    model.config.aot = {"retention": 0.1, "attention_power": 0.5}
    with pytest.raises(ValueError, match="encode it again"):
        model.video_tokens(bare)
    assert model.encode_video(video).deep.shape == (6, 144)


def test_the_plain_path_goes_through_encode_images(model, video, monkeypatch):
    monkeypatch.setattr(model, "encode_images", lambda pixels: torch.ones(len(pixels), 144, 32))
    assert torch.all(model.prepare_inputs_labels_for_multimodal(
        torch.tensor([[-200]]), None, None, None, None, [video], ["video"]
    )[4][0, 0] == 1)  # fmt: skip


def test_a_model_in_low_precision(make_model, video):
    model = make_model().to(torch.bfloat16)
    model.config.aot = {"retention": 0.1}
    embeds = prepare(model, [[5, -200, 6]], [video.half()], ["video"])
    assert embeds.dtype == torch.bfloat16 and embeds.shape[1] == 29 and embeds.isfinite().all()


def test_merge_types_without_newlines(make_model, video):
    model = make_model(mm_patch_merge_type="flat")
    assert not hasattr(model.model, "image_newline")
    assert prepare(model, [[-200]], [video], ["video"]).shape[1] == 6 * 36
    assert prepare(model, [[-200]], [video[0]], ["image"]).shape[1] == 144
    model.config.mm_patch_merge_type = "spatial_unpad"
    with pytest.raises(ValueError, match="image_newline"):
        prepare(model, [[-200]], [video[0]], ["image"])


def test_newlines_follow_the_merge_type_of_the_moment(model, video):
    """One at the very end belongs to the types with "unpad" alone; those of frames to all but "flat"."""
    features = model.encode_video(video)
    for merge, position, newlines in (
        ("spatial_unpad", "one_token", 1),
        ("spatial", "one_token", 0),
        ("spatial", "frame", 6),
        ("flat", "frame", 0),
    ):
        model.config.mm_patch_merge_type, model.config.mm_newline_position = merge, position
        assert len(model.video_tokens(features)[0]) == 6 * 36 + newlines
        assert model.uncompressed_count(6) == (6 * 36, newlines) and model.last_timing["compress"] == 0


def test_an_image_of_many_tiles_is_no_long_video(model, video, monkeypatch):
    model.config.aot = {"retention": 0.1}
    model.config.image_aspect_ratio, model.config.image_grid_pinpoints = "anyres", [[96, 96], [192, 96]]
    monkeypatch.setattr("llava.model.llava_arch.STREAM_ABOVE", 2)
    embeds = prepare(model, [[-200]], [video[:3]], ["image"], image_sizes=[(200, 100)])
    assert embeds.shape[1] == 144 + 12 * 25 and model.last_compression == []


def test_a_tower_of_one_layer_serves_methods_that_read_no_two(make_model, video):
    model = make_model(mm_vision_config={**tiny_config().mm_vision_config, "num_hidden_layers": 1})
    model.config.aot = {"method": "visionzip", "retention": 0.1}
    prepare(model, [[-200]], [video], ["video"])
    assert model.last_compression[0].num_visual == 21
    model.config.aot = {"retention": 0.1, "attention_power": 0.5}
    with pytest.raises(AOTError, match="at least 2"):
        prepare(model, [[-200]], [video], ["video"])


@pytest.mark.parametrize("frames", [128, 3])
def test_a_device_is_asked_for_bad_values_when_the_prompt_is_made(model, video, monkeypatch, frames):
    """Whole and in chunks, as on a GPU: `video_tokens` waits for nothing, the prompt that takes the tokens does."""
    monkeypatch.setattr("aot.validation.HOST_DEVICES", ())
    monkeypatch.setattr("llava.model.llava_arch.STREAM_ABOVE", frames)
    monkeypatch.setattr("llava.model.llava_arch.CHUNK", 2)
    model.config.aot = {"retention": 0.1, "clip_length": 2}
    prepare(model, [[-200]], [video], ["video"])
    model.get_model().mm_projector.register_forward_hook(spoil_frame(5, of=len(video)))
    model.video_tokens(model.encode_video(video))
    with pytest.raises(AOTError, match="^features cannot be used at 1 of 216 places, first in frame 5 at token 0"):
        prepare(model, [[-200]], [video], ["video"])


def test_images_in_tiles(model, video):
    model.config.image_aspect_ratio, model.config.image_grid_pinpoints = "anyres", [[96, 96], [192, 96]]
    tiles = video[:3]
    embeds = prepare(model, [[-200]], [tiles], ["image"], image_sizes=[(200, 100)])
    assert embeds.shape[1] == 144 + 12 * 25
    encoded = model.encode_images(tiles)
    torch.testing.assert_close(embeds[0, 144 : 144 + 24], torch.cat([encoded[1, :12], encoded[2, :12]]))
    model.config.mm_patch_merge_type = "spatial"
    assert prepare(model, [[-200]], [tiles], ["image"], image_sizes=[(200, 100)]).shape[1] == 3 * 144
    with pytest.raises(ValueError, match="image_sizes"):
        prepare(model, [[-200]], [tiles], ["image"])
    with pytest.raises(ValueError, match="makes 1 tiles.*modalities"):
        prepare(model, [[-200]], [tiles], ["image"], image_sizes=[(100, 100)])
    model.config.image_aspect_ratio = "pad"
    with pytest.raises(ValueError, match="'video' in modalities"):
        prepare(model, [[-200]], [tiles], ["image"], image_sizes=[(200, 100)])
