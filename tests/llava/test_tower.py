import numpy as np
import pytest
import torch
from transformers import AttentionInterface, SiglipVisionConfig, SiglipVisionModel

import llava.model.multimodal_encoder.siglip_encoder as siglip_encoder
import llava.model.multimodal_encoder.tower_layers as capture
from llava.model.language_model.configuration_llava_qwen import tower_config
from llava.model.multimodal_encoder.siglip_encoder import SigLipImageProcessor


@pytest.fixture
def tower(model):
    return model.get_vision_tower()


def eager_received(tower, pixels, layer):
    """Column sums of the softmax that one layer's own projections give, mean over heads: (F, N)."""
    seen = {}
    attention = tower.vision_tower.vision_model.encoder.layers[layer].self_attn
    hook = attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(x=kwargs.get("hidden_states", args[0] if args else None)),
        with_kwargs=True,
    )
    tower.encode(pixels)
    hook.remove()
    heads = (*seen["x"].shape[:2], attention.num_heads, -1)
    query = attention.q_proj(seen["x"]).view(heads).transpose(1, 2)
    key = attention.k_proj(seen["x"]).view(heads).transpose(1, 2)
    weights = (query @ key.transpose(-1, -2) * attention.head_dim**-0.5).softmax(dim=-1)
    return weights.sum(dim=2).mean(dim=1), key.mean(dim=1)


@torch.no_grad()
def test_received_attention_is_the_column_sum_of_eager_attention(tower, video):
    output = tower.encode(video, received=(1, 3), keys=(3,))
    for layer in (1, 3):
        expected, keys = eager_received(tower, video, layer)
        torch.testing.assert_close(output.received[layer], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.keys[3], keys, rtol=1e-5, atol=1e-5)
    assert output.received[1].shape == (6, 144) and not torch.allclose(output.received[1], output.received[3])


@torch.no_grad()
def test_capturing_changes_no_feature(tower, video):
    plain = tower.encode(video)
    captured = tower.encode(video, received=(1, 3), keys=(4,))
    assert torch.equal(plain.features, captured.features) and not plain.received and not plain.keys


@torch.no_grad()
def test_only_named_layers_leave_plain_fused_attention(tower, video, monkeypatch):
    calls = []
    with_outputs = capture.layer_with_outputs
    monkeypatch.setattr(
        siglip_encoder,
        "layer_with_outputs",
        lambda layer, hidden, *, received: calls.append(received) or with_outputs(layer, hidden, received=received),
    )
    tower.encode(video, received=(1, 3), keys=(4,))
    assert calls == [True, True, False]


@torch.no_grad()
@pytest.mark.parametrize("sums", [True, False])
def test_received_attention_with_and_without_the_sums_of_fused_attention(tower, video, monkeypatch, sums):
    expected = tower.encode(video, received=(1,)).received[1]
    given = []
    received = capture.received_attention
    monkeypatch.setattr(capture, "has_sums", lambda *args: sums)
    monkeypatch.setattr(
        capture, "received_attention", lambda *args, lse: given.append(lse is not None) or received(*args, lse=lse)
    )
    torch.testing.assert_close(tower.encode(video, received=(1,)).received[1], expected, rtol=1e-5, atol=1e-5)
    assert given == [sums]


@torch.no_grad()
def test_fused_attention_and_its_sums_take_any_scale():
    query, key, value = torch.randn(3, 2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    output, sums = capture.attention_with_sums(query, key, value, 0.7)
    scores = 0.7 * query @ key.mT
    torch.testing.assert_close(output, scores.softmax(-1) @ value)
    torch.testing.assert_close(sums, scores.logsumexp(-1))


def test_no_attention_is_computed_unless_asked(tower, video, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("received attention was computed")

    monkeypatch.setattr(capture, "received_attention", never)
    tower.encode(video)
    with pytest.raises(AssertionError, match="was computed"):
        tower.encode(video, received=(1,))


@torch.no_grad()
def test_other_models_keep_their_attention(tower, video):
    geometry = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    other = SiglipVisionModel(SiglipVisionConfig(image_size=96, patch_size=32, **geometry)).eval()
    sdpa = AttentionInterface()["sdpa"]
    before = other(video).last_hidden_state
    tower.encode(video, received=(1, 3))
    assert AttentionInterface()["sdpa"] is sdpa
    assert other.config._attn_implementation == "sdpa"
    assert torch.equal(other(video).last_hidden_state, before)


@torch.no_grad()
def test_long_videos_go_in_passes(tower, video, monkeypatch):
    whole = tower.encode(video, received=(1,), keys=(4,))
    monkeypatch.setattr(siglip_encoder, "FRAMES_PER_PASS", 4)
    passes = tower.encode(video, received=(1,), keys=(4,))
    torch.testing.assert_close(passes.features, whole.features)
    torch.testing.assert_close(passes.received[1], whole.received[1])
    torch.testing.assert_close(passes.keys[4], whole.keys[4])


@torch.no_grad()
def test_features_are_taken_before_the_last_norm(tower, video):
    before = tower(video)
    tower.vision_tower.vision_model.post_layernorm.weight.fill_(7.0)
    assert torch.equal(tower(video), before)


@torch.no_grad()
def test_half_pixels_are_cast(tower, video):
    assert tower(video.half()).dtype == torch.float32


def test_geometry_for_callers(tower):
    assert (tower.image_size, tower.num_patches_per_side, tower.num_patches) == (96, 12, 144)
    assert tower.hidden_size == 24 and tower.num_layers == 5 and tower.image_processor.size == (96, 96)


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (3, 96, 96), (0, 3, 96, 96), (2, 1, 96, 96)])
def test_pixels_of_another_shape_are_refused(tower, shape):
    with pytest.raises(ValueError, match="image_processor"):
        tower.encode(torch.zeros(shape))


def test_so400m_without_its_last_layer_is_the_default():
    class Settings:
        mm_vision_tower = "google/siglip-so400m-patch14-384"

    config = tower_config(Settings())
    assert (config.num_hidden_layers, config.hidden_size) == (26, 1152)
    assert (config.image_size, config.patch_size) == (384, 14)


def test_unknown_tower_is_refused():
    class Settings:
        mm_vision_tower = "openai/clip-vit-large-patch14-336"

    with pytest.raises(ValueError, match="clip-vit.*mm_vision_config"):
        tower_config(Settings())


@torch.no_grad()
def test_memory_bounds_the_frames_of_a_pass(tower, video):
    whole = tower.encode(video)
    assert tower.frames_per_pass == siglip_encoder.FRAMES_PER_PASS
    per_frame = 144 * (6 * 24 + 2 * 48) * 4
    tower.pass_memory = 2 * per_frame + 1
    assert tower.frames_per_pass == 2
    torch.testing.assert_close(tower.encode(video).features, whole.features)
    tower.pass_memory = 1
    assert tower.frames_per_pass == 1


def test_pixels_may_be_taller_than_wide():
    """(height, width) of the processor are those of its pixels, whatever the picture's."""
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    processor = SigLipImageProcessor(size=(48, 32))
    assert processor.preprocess(image)["pixel_values"].shape == (1, 3, 48, 32)
    assert processor.resize([image]).shape == (1, 3, 48, 32)
