"""Frames and pixels as transformers' own processors choose and make them, where their code runs without torchvision."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from llava.hf.video_processor import (
    InternVL,
    LlavaNextVideo,
    LlavaOnevision,
    ProcessorError,
    Qwen2VL,
    Qwen3VL,
    Qwen25VL,
    Sampling,
    Tokens,
)
from llava.video import Video

QWEN = SimpleNamespace()


def theirs(module: str):
    return importlib.import_module(f"transformers.models.{module}")


def slow_qwen(least: int, most: int):
    """The image processor of Qwen2-VL that works on Pillow and numpy."""
    patches = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    try:
        made = theirs("qwen2_vl.image_processing_pil_qwen2_vl").Qwen2VLImageProcessorPil
    except ModuleNotFoundError:  # transformers 4
        made = theirs("qwen2_vl.image_processing_qwen2_vl").Qwen2VLImageProcessor
        return made(**patches, min_pixels=least, max_pixels=most)
    return made(**patches, size={"shortest_edge": least, "longest_edge": most})


def video(frames: np.ndarray, rate: float = 8.0) -> Video:
    times = np.arange(len(frames)) / rate
    return Video(frames, times, len(frames) / rate, "pyav", len(frames), rate)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(32, 48), (37, 61), (200, 90)])
def test_patches_of_qwen_are_those_of_its_image_processor(size):
    """An image is a patch of time of two equal frames."""
    least, most = 8 * 8 * 4, 8 * 8 * 64
    settings = {"size": {"shortest_edge": least, "longest_edge": most}}
    frame = pictures(1, *size)
    expected = slow_qwen(least, most)(images=[Image.fromarray(frame[0])], return_tensors="pt")
    ours = Qwen2VL({**settings, "patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}, QWEN, Sampling())
    found = ours.inputs(video(np.repeat(frame, 2, axis=0)))
    assert found["video_grid_thw"].tolist() == expected["image_grid_thw"].tolist()
    resized = tuple(found["video_grid_thw"][0, 1:] * 4) != size
    # Pillow and torch round differently: two levels of 255 at most, where the deviation of a channel is 0.26
    bound = 2 / 255 / 0.26 if resized else 1e-6
    torch.testing.assert_close(found["pixel_values_videos"], expected["pixel_values"], rtol=0, atol=bound)


def test_frames_of_qwen_go_in_pairs_and_blocks():
    """Each value of a patch, by hand: blocks of 2x2 patches, and in a patch channel, frame, row and column."""
    frames = pictures(5, 16, 24)
    plain = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3, "rescale_factor": 1.0}
    small = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 64, "longest_edge": 10**6}}
    found = Qwen25VL({**plain, **small}, QWEN, Sampling()).inputs(video(frames))
    assert found["video_grid_thw"].tolist() == [[3, 4, 6]]
    assert found["second_per_grid_ts"].tolist() == [2 / 8.0]
    padded, row = np.concatenate([frames, frames[-1:]]), 0
    for t in range(3):
        for block_y in range(2):
            for block_x in range(3):
                for y in (2 * block_y, 2 * block_y + 1):
                    for x in (2 * block_x, 2 * block_x + 1):
                        patch = padded[2 * t : 2 * t + 2, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                        expected = torch.from_numpy(patch.transpose(3, 0, 1, 2).reshape(-1).astype(np.float32))
                        assert torch.equal(found["pixel_values_videos"][row], expected)
                        row += 1


@pytest.mark.parametrize("frames", [2, 5, 32])
@pytest.mark.parametrize("height, width", [(480, 854), (1080, 1920), (30, 500), (333, 77)])
def test_sizes_are_those_of_transformers(frames, height, width):
    try:
        two = theirs("qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    except ModuleNotFoundError:
        two = theirs("qwen2_vl.image_processing_qwen2_vl").smart_resize
    limits = {"min_pixels": 128 * 28 * 28, "max_pixels": 768 * 28 * 28}
    found = Qwen2VL({}, QWEN, Sampling()).smart_size(frames, height, width)
    assert found == two(height, width, factor=28, **limits)
    if min(height, width) < 32 and transformers.__version__ < "5":
        return  # transformers 4 refuses such frames
    three = theirs("qwen3_vl.video_processing_qwen3_vl").smart_resize
    limits = {"min_pixels": 128 * 32 * 32, "max_pixels": 768 * 32 * 32}
    found = Qwen3VL({}, QWEN, Sampling()).smart_size(frames, height, width)
    assert found == three(frames, height, width, temporal_factor=2, factor=32, **limits)


@pytest.mark.parametrize("total, rate", [(300, 30.0), (7, 25.0), (4000, 23.976), (1, 30.0), (100_000, 30.0)])
@pytest.mark.parametrize("asked", [{}, {"fps": 1.0}, {"num_frames": 9}])
def test_frames_of_qwen3_are_those_of_transformers(total, rate, asked):
    processor = theirs("qwen3_vl.video_processing_qwen3_vl").Qwen3VLVideoProcessor
    usual = SimpleNamespace(fps=2, min_frames=4, max_frames=768)
    metadata = SimpleNamespace(total_num_frames=total, fps=rate)
    expected = processor.sample_frames(usual, metadata, **asked)
    found = Qwen3VL({}, QWEN, Sampling(**asked)).choose(np.arange(total) / rate, rate)
    if "num_frames" in asked and total >= 9:
        assert len(found) == round(9 / 2) * 2  # whole patches of time
    elif "num_frames" not in asked:
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("total, rate", [(300, 30.0), (7, 25.0), (4000, 23.976), (2, 30.0)])
def test_frames_of_qwen2_go_two_by_two(total, rate):
    found = Qwen2VL({}, QWEN, Sampling(fps=1.0)).choose(np.arange(total) / rate, rate)
    count = min(max(total / rate, 4), total // 2 * 2, total) // 2 * 2
    assert found.tolist() == torch.arange(0, total, total / count).int().tolist()


def test_times_stand_before_every_patch_of_time():
    frames = pictures(5, 32, 64)
    processor = Qwen3VL({"patch_size": 16, "size": {"shortest_edge": 64, "longest_edge": 10**6}}, QWEN, Sampling())
    clip = video(frames, rate=2.0)
    text = processor.text(clip, processor.inputs(clip), Tokens("V", "(", ")"))
    # the middle of 0 and 0.5 s, of 1 and 1.5, and of the last frame with itself
    assert text == "<0.2 seconds>(VV)<1.2 seconds>(VV)<2.0 seconds>(VV)"


def test_limits_hold():
    frames = (24, 1080, 1920)
    for kind, limit in ((Qwen2VL, 28), (Qwen3VL, 32)):
        for tokens in (100, 1000, 4000):
            height, width = kind({}, QWEN, Sampling(total_tokens=tokens)).smart_size(*frames)
            # Qwen3-VL's own limit is 384 tokens for all frames
            assert min(tokens, 384 if kind is Qwen3VL else tokens) / 2 < 12 * height * width / limit**2 <= tokens
        height, width = kind({}, QWEN, Sampling(max_pixels=200_000)).smart_size(*frames)
        assert height * width <= 200_000


@pytest.mark.parametrize("kind", [InternVL, LlavaNextVideo, LlavaOnevision])
def test_frames_of_one_size(kind):
    config = SimpleNamespace(
        vision_config=SimpleNamespace(patch_size=14, image_size=336), model_type="", downsample_ratio=0.5
    )
    if kind is InternVL:
        config.vision_config = SimpleNamespace(patch_size=[14, 14], image_size=[336, 336])
    size = {"shortest_edge": 336} if kind is LlavaNextVideo else {"height": 336, "width": 336}
    settings = {"size": size, "crop_size": {"height": 336, "width": 336}}
    processor = kind(settings, config, Sampling(num_frames=3))
    clip = video(pictures(3, 400, 600))
    inputs = processor.inputs(clip)
    pixels = inputs["pixel_values"] if kind is InternVL else inputs["pixel_values_videos"][0]
    assert pixels.shape == (3, 3, 336, 336) and abs(float(pixels.mean())) < 0.5
    text = processor.text(clip, inputs, Tokens("V"))
    assert text.count("V") == 3 * 144 + (kind is LlavaOnevision)
    with pytest.raises(ProcessorError, match="frames of one size"):
        kind(settings, config, Sampling(max_pixels=10_000))
    with pytest.raises(ProcessorError, match="more than 0"):
        kind(settings, config, Sampling(fps=0))


def test_frames_of_internvl_come_from_the_middle_of_each_part():
    processor = InternVL({}, SimpleNamespace(), Sampling(num_frames=4))
    assert processor.choose(np.arange(40) / 8, 8.0).tolist() == [5, 15, 25, 35]
    assert InternVL({}, SimpleNamespace(), Sampling(fps=1.0)).choose(np.arange(40) / 8, 8.0).tolist() == [
        4,
        12,
        20,
        28,
        36,
    ]
