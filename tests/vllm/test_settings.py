"""What the plugin makes of a model's configuration, without vLLM."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from aot import AOTConfig, AOTError
from aot.vllm.settings import LlavaSettings, settings_of


def configuration(**fields):
    vision = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14, "num_hidden_layers": 26}
    return SimpleNamespace(vision_config=SimpleNamespace(**vision), **{"vision_feature_layer": -1, **fields})


@pytest.mark.parametrize(
    ("fields", "frames", "tokens"),
    [
        ({}, 32, 32 * 196 + 1),
        ({"aot": None}, 32, 32 * 196 + 1),
        ({"aot": {"retention": 0.1}}, 32, 627 + 1),
        ({"aot": {"retention": 0.1}}, 1, 19 + 1),
        ({"aot": {"retention": 0.58}, "mm_newline_position": "frame"}, 50, 5684 + 50),
        ({"mm_newline_position": "grid"}, 4, 4 * 14 * 15),
        ({"mm_newline_position": "grid", "mm_spatial_pool_mode": "average"}, 64, 64 * 13 * 14),
        ({"aot": {"retention": 0.1}, "mm_newline_position": "grid", "mm_spatial_pool_mode": "average"}, 64, 1081 + 64),
        ({"aot": {"retention": 0.1, "newlines": "all"}, "mm_newline_position": "grid"}, 10, 196 + 140),
        ({"aot": {"retention": 0.1, "method": "evs"}}, 32, 627 + 1),
        ({"aot": {"max_tokens": 400}}, 1, 196 + 1),
        ({"aot": {"max_tokens": 400, "retention": None}}, 32, 400 + 1),
        ({"aot": {"max_tokens": 400, "retention": 0.1}}, 10, 196 + 1),
        ({"aot": {"max_tokens": 400, "retention": 0.1}}, 32, 400 + 1),
    ],
)
def test_counts(fields, frames, tokens):
    assert LlavaSettings.read(configuration(**fields)).tokens(frames) == tokens


def test_a_model_whose_videos_have_any_size():
    """Qwen3-VL: counts by frames and tokens of a frame, less than a frame has among them."""
    videos = settings_of(SimpleNamespace(model_type="qwen3_vl", aot={"retention": 0.1}, mm_video_frames=48))
    assert [videos.token_count(*size) for size in ((8, 24), (1, 5), (24, 999))] == [19, 1, 2397] and videos.frames == 48
    assert isinstance(
        settings_of(SimpleNamespace(model_type="llava_onevision", **vars(configuration()))), LlavaSettings
    )
    with pytest.raises(AOTError, match="split deployment"):
        settings_of(SimpleNamespace(model_type="qwen3_vl", aot={"distortion": 0.2}))


def test_layers_in_use():
    assert LlavaSettings.read(configuration()).layers == 26
    assert LlavaSettings.read(configuration(vision_feature_layer=-2)).layers == 25
    assert LlavaSettings.read(configuration(vision_feature_layer=20)).layers == 20


@pytest.mark.parametrize("room", [1, 20, 627, 628, 629, 10**6])
@pytest.mark.parametrize("most", [None, 300])
def test_frames_that_fit_are_the_most(room, most):
    videos = LlavaSettings.read(configuration(aot={"retention": 0.1, "max_tokens": most}, mm_video_frames=40))
    fit = videos.frames_that_fit(room)
    assert fit == max((n for n in range(1, 41) if videos.tokens(n) <= room), default=0)


def test_too_many_frames():
    videos = LlavaSettings.read(configuration(mm_video_frames=48))
    videos.check_frames(48)
    with pytest.raises(AOTError, match="49 frames and this server takes at most 48"):
        videos.check_frames(49)


def test_the_longest_video_must_fit_the_context():
    videos = LlavaSettings.read(configuration(aot={"retention": 0.1}))
    videos.check_context(629)
    with pytest.raises(AOTError, match="32 frames takes 628 tokens and the server's context holds 628"):
        videos.check_context(628)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"aot": {"retention": 1.5}}, "retention"),
        ({"aot": {"retension": 0.1}}, "Unknown setting retension"),
        ({"aot": 0.1}, "aot is 0.1"),
        ({"aot": AOTConfig.preset("released").to_dict()}, "split deployment"),
        ({"aot": {"newlines": "row"}, "mm_newline_position": "grid"}, "split deployment"),
        ({"aot": {"method": "fastv", "retention": 0.1}}, "inside the language model"),
        ({"aot": {"tower_reuse": 0}}, "leave tower_reuse out, or use the split deployment"),
        ({"mm_newline_position": "anywhere"}, "anywhere"),
        ({"mm_spatial_pool_mode": "median"}, "median"),
        ({"mm_video_frames": -1}, "mm_video_frames"),
        ({"mm_video_frames": 0}, "mm_video_frames"),
        ({"vision_feature_layer": [-2, -1]}, "one layer"),
    ],
)
def test_refusals(fields, said):
    with pytest.raises(AOTError, match=said):
        LlavaSettings.read(configuration(**fields))


def test_another_tower_is_refused():
    other = SimpleNamespace(vision_config=SimpleNamespace(model_type="clip_vision_model"))
    with pytest.raises(AOTError, match="clip_vision_model"):
        LlavaSettings.read(other)


def test_nothing_of_aot_imports_vllm():
    code = (
        "import sys, aot, aot.vllm, aot.vllm.settings; sys.exit('vllm' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
