"""The tower's features where a video stands still, in whole frames and in patches."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aot import AOTConfig
from aot.patch_reuse import patches_of, plan_reuse
from llava.model.long_video import compress_stream

CAPTURED = {"received": (1, 3), "keys": (4,)}
BOUND = 0.02


@pytest.fixture
def tower(model):
    return model.get_vision_tower()


@pytest.fixture
def moving():
    """Pixels (8, 3, 96, 96) of noise that stands still but for a band that grows by a row of patches a frame."""
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(2)).repeat(8, 1, 1, 1)
    for frame in range(8):
        new = torch.randn(3, 8 * frame, 96, generator=torch.Generator().manual_seed(10 + frame))
        pixels[frame, :, : 8 * frame] = new
    return pixels


def reference(tower, pixels, plan):
    """Features with every patch computed and, before each layer, those put back that did not change."""
    computed = torch.zeros(len(pixels), 144, 1, dtype=torch.bool)
    computed[plan.keys] = True
    for part in plan.changed:
        for frame, patches in zip(part.frames, part.patches, strict=True):
            computed[frame, patches] = True
    of = [plan.keys[key] for key in plan.key_of]
    hidden = tower._embed(pixels)
    for layer in tower.vision_tower.vision_model.encoder.layers:
        hidden = layer(torch.where(computed, hidden, hidden[of]), None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden  # transformers 4 wraps it
    return torch.where(computed, hidden, hidden[of])


def relative(value, expected):
    return float((value - expected).norm() / expected.norm())


@torch.no_grad()
def test_still_frames_have_the_features_of_the_first_to_the_bit(tower, moving):
    pixels = moving[3:4].repeat(5, 1, 1, 1)
    plain, reused = tower.encode(pixels[:1], **CAPTURED), tower.encode(pixels, **CAPTURED, reuse=BOUND)
    assert reused.patches == 144
    torch.testing.assert_close(reused.features[0], plain.features[0], rtol=1e-5, atol=1e-5)
    for values in (reused.features, *reused.received.values(), *reused.keys.values()):
        assert all(torch.equal(values[frame], values[0]) for frame in range(5))
    torch.testing.assert_close(reused.received[3][:1], plain.received[3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reused.keys[4][:1], plain.keys[4], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_changed_patches_attend_to_all_and_the_others_are_the_key_frames(tower, moving):
    plan = plan_reuse(patches_of(moving / 2, 8), BOUND, (12, 12))
    assert len(plan.keys) == 2 and [part.patches.shape[1] for part in plan.changed] == [27, 36, 54, 63, 72, 90]
    reused = tower.encode(moving, reuse=BOUND)
    assert reused.patches == plan.patches(144) < 0.7 * 8 * 144
    torch.testing.assert_close(reused.features, reference(tower, moving, plan), rtol=1e-4, atol=1e-4)
    still = [patch for patch in range(144) if patch not in plan.changed[0].patches[0]]
    assert len(still) == 144 - 27 and torch.equal(reused.features[1, still], reused.features[0, still])


@torch.no_grad()
def test_the_error_grows_with_the_share_that_changed_and_key_frames_have_none(tower, moving):
    plain, reused = tower.encode(moving, **CAPTURED), tower.encode(moving, **CAPTURED, reuse=BOUND)
    errors = [relative(a, b) for a, b in zip(reused.features, plain.features, strict=True)]
    assert errors[0] < 1e-5 and errors[7] < 1e-5  # more than half of the last frame changed
    assert all(1e-3 < error < 0.1 for error in errors[1:7]) and errors[1] < errors[5]
    for layer, values in plain.received.items():
        assert relative(reused.received[layer], values) < 0.05
        torch.testing.assert_close(reused.received[layer].sum(1), torch.full((8,), 144.0), rtol=1e-4, atol=1e-3)
    assert relative(reused.keys[4], plain.keys[4]) < 0.1


@torch.no_grad()
def test_nothing_is_reused_where_all_changes(tower, video):
    reused = tower.encode(video, reuse=BOUND)
    assert reused.patches == 6 * 144
    torch.testing.assert_close(reused.features, tower.encode(video).features, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_uint8_pixels_change_as_normalised_ones_do(tower):
    frames = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames = frames.repeat(3, 1, 1, 1)
    frames[1, :, :8, :8] = frames[1, :, :8, :8] // 2
    frames[2, 0, 8, 8] ^= 1  # one in 255 of one value
    normalised = tower.image_processor.normalise(frames)
    bytes_, floats = tower.encode(frames, reuse=BOUND), tower.encode(normalised, reuse=BOUND)
    assert bytes_.patches == floats.patches == 144 + 9
    assert torch.equal(bytes_.features, floats.features)


@torch.no_grad()
def test_in_bfloat16(tower, moving):
    exact = tower.encode(moving, reuse=BOUND).features
    tower.bfloat16()
    reused = tower.encode(moving, **CAPTURED, reuse=BOUND)
    assert reused.features.dtype == torch.bfloat16 and reused.received[1].dtype == torch.float32
    assert relative(reused.features.float(), exact) < 0.03


@torch.no_grad()
def test_passes_do_not_matter(tower, moving):
    long = torch.cat([moving, moving[2:3].repeat(8, 1, 1, 1), moving])
    whole = tower.encode(long, reuse=BOUND)
    parts = [tower.encode(part, reuse=BOUND) for part in long.split(16)]
    torch.testing.assert_close(torch.cat([part.features for part in parts]), whole.features)
    assert whole.patches == sum(part.patches for part in parts)
    tower.pass_memory = 17 * 144 * (6 * 24 + 2 * 48) * 4
    assert (tower.pass_length(None), tower.pass_length(0.0), tower.pass_length(BOUND)) == (17, 17, 16)
    torch.testing.assert_close(tower.encode(long, reuse=BOUND).features, whole.features)


@torch.no_grad()
def test_equal_frames_are_encoded_once(model, moving):
    slides = moving[[0, 0, 3, 3, 3, 0, 5]]
    seen = []
    layer = model.get_vision_tower().vision_tower.vision_model.encoder.layers[0]
    layer.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    model.config.aot = AOTConfig(retention=0.4)
    plain = model.encode_video(slides)
    assert model.last_tower_flops.spent == model.last_tower_flops.whole
    model.config.aot = AOTConfig(retention=0.4, tower_reuse=0)
    once = model.encode_video(slides)
    assert seen == [7, 3]
    spent, whole = model.last_tower_flops
    assert spent / whole == pytest.approx(3 / 7)
    torch.testing.assert_close(once.features, plain.features, rtol=1e-5, atol=1e-5)
    for name, values in plain.outputs.items():
        torch.testing.assert_close(once.outputs[name], values, rtol=1e-5, atol=1e-5)
    assert torch.equal(once.features[0], once.features[5])


@torch.no_grad()
def test_videos_together_and_in_chunks_are_as_by_themselves(model, moving):
    model.config.aot = AOTConfig(retention=0.4, clip_length=4, tower_reuse=BOUND)
    alone = [model.video_tokens(model.encode_video(one))[0] for one in (moving, moving.flip(0))]
    ids = torch.tensor([[5, -200, 7, -200, 9]])
    kinds = ["video", "video"]
    model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, [moving, moving.flip(0)], kinds)
    for one, result in zip(alone, model.last_compression, strict=True):
        torch.testing.assert_close(result.tokens, one)
    streamed = compress_stream(model, torch.cat([moving, moving.flip(0)]).split(16))
    torch.testing.assert_close(
        streamed.tokens, model.video_tokens(model.encode_video(torch.cat([moving, moving.flip(0)])))[0]
    )
    assert 0 < model.last_tower_flops.spent < model.last_tower_flops.whole


@torch.no_grad()
def test_flops_are_those_that_torch_counts(tower, moving):
    for reuse in (None, BOUND):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
            patches = tower.encode(moving, reuse=reuse).patches
        assert tower.flops(8, patches) == counted.get_total_flops()
