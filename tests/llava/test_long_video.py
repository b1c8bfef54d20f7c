"""Videos that are compressed while they are read."""

import threading
import time

import numpy as np
import pytest
import torch

from aot import AOTConfig
from llava.model.compression import CapturePlan
from llava.model.long_video import Prefetcher, compress_stream, pixel_chunks


def test_a_streamed_video_answers_as_its_tokens_do(model, video):
    model.config.aot = AOTConfig(retention=0.3, clip_length=6).to_dict()
    streamed = compress_stream(model, video.split(4))
    whole, _ = model.video_tokens(model.encode_video(video))
    torch.testing.assert_close(streamed.tokens, whole, rtol=1e-4, atol=1e-5)
    ids = torch.tensor([[5, -200, 7]])
    answers = [
        model.generate(ids, images=[entry], modalities=["video"], max_new_tokens=5, do_sample=False)
        for entry in (streamed, video)
    ]
    assert torch.equal(*answers)
    assert len(model.last_compression) == 1


def test_chunks_do_not_matter(model, video):
    model.config.aot = AOTConfig(retention=0.3, clip_length=2).to_dict()
    one, other = (compress_stream(model, video.split(size)) for size in (1, 5))
    assert torch.equal(one.frame, other.frame) and one.clips == [2, 2, 2]
    torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-4, atol=1e-5)


def test_uint8_pixels_are_normalised_on_the_device_to_the_bit(model):
    processor = model.get_vision_tower().image_processor
    frames = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)
    floats = processor.preprocess(frames)["pixel_values"]
    chunks = list(pixel_chunks(frames, processor, size=2))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1] and chunks[0].dtype == torch.uint8
    assert torch.equal(processor.normalise(torch.cat(chunks)), floats)
    assert torch.equal(model.get_vision_tower()(torch.cat(chunks)), model.get_vision_tower()(floats))


def test_the_next_chunk_is_made_while_one_is_in_use():
    made = []

    def chunks():
        for number in range(3):
            made.append(number)
            yield number
        raise ValueError("the file ends here")

    seen = []
    with Prefetcher(chunks()) as ahead, pytest.raises(ValueError, match="the file ends here"):
        for item in ahead:
            deadline = time.monotonic() + 10
            while len(made) < min(3, item + 2) and time.monotonic() < deadline:
                time.sleep(0.01)
            seen.append((item, len(made)))
    assert seen == [(0, 2), (1, 3), (2, 3)]


def test_waiting_is_counted_in_milliseconds(model, video):
    def slow():
        for part in video.split(3):
            time.sleep(0.02)
            yield part

    model.config.aot = {"retention": 0.5}
    compress_stream(model, slow())
    assert model.last_timing["wait"] >= 40


def test_what_is_made_ahead_is_stopped_and_waited_for():
    """Whoever leaves early frees the thread first: it may be waiting for a decoder that hangs."""
    waits, freed, ended = (threading.Event() for _ in range(3))

    def chunks():
        yield 0
        waits.set()
        freed.wait(60)
        ended.set()
        yield 1

    with pytest.raises(KeyboardInterrupt), Prefetcher(chunks(), freed.set) as ahead:
        assert next(ahead) == 0 and waits.wait(60)
        raise KeyboardInterrupt
    assert ended.is_set()


@pytest.mark.parametrize("make", [iter, Prefetcher])
def test_chunks_may_stand_among_the_images(model, video, make):
    model.config.aot = AOTConfig(retention=0.3, clip_length=6).to_dict()
    ids = torch.tensor([[5, -200, 7, -200, 9]])
    settings = {"modalities": ["video", "video"], "max_new_tokens": 5, "do_sample": False}
    answers = [model.generate(ids, images=[video, chunks], **settings) for chunks in (video, make(video.split(4)))]
    assert torch.equal(*answers) and len(model.last_compression) == 2
    assert model.last_timing["tower"] > 0 and model.last_timing["compress"] > 0
    model.config.aot = None
    with pytest.raises(ValueError, match="set config.aot"):
        model.generate(ids, images=[video, iter(video.split(4))], **settings)


def test_a_long_video_among_the_images_is_taken_in_chunks(model, video, monkeypatch):
    """More frames than STREAM_ABOVE: the tower sees a chunk at a time, and the tokens are those of the whole video."""
    model.config.aot = AOTConfig(retention=0.3, clip_length=3).to_dict()
    tower, seen = model.get_vision_tower(), []
    encode = tower.encode
    monkeypatch.setattr(tower, "encode", lambda pixels, **kw: seen.append(len(pixels)) or encode(pixels, **kw))
    monkeypatch.setattr("llava.model.llava_arch.CHUNK", 4)
    ids = torch.tensor([[5, -200, 7]])

    def tokens(**settings):
        seen.clear()
        model.generate(ids, images=[video], max_new_tokens=1, do_sample=False, **settings)
        return model.last_compression[0] if model.last_compression else None

    whole = tokens(modalities=["video"])
    assert seen == [6]
    monkeypatch.setattr("llava.model.llava_arch.STREAM_ABOVE", 5)
    long = tokens(modalities=["video"])
    assert seen == [4, 2]
    assert torch.equal(long.frame, whole.frame) and torch.equal(long.position, whole.position)
    torch.testing.assert_close(long.tokens, whole.tokens, rtol=1e-4, atol=1e-5)
    assert long.config == whole.config and long.frames == whole.frames == 6
    for other in (None, AOTConfig(retention=0.3, clips="dynamic"), AOTConfig.preset("released", num_anchors=18)):
        model.config.aot = other and other.to_dict()
        tokens(modalities=["video"])
        assert seen == [6]


def test_features_do_not_depend_on_the_frames_of_a_pass(model, video):
    """Tower and projector take a long video in parts; everything that is captured comes along."""
    plan = CapturePlan({"shallow": 1, "deep": 3, "attention_last": 4}, {"keys": 4})
    whole = model.encode_video(video, plan=plan)
    model.get_vision_tower().pass_memory = 1  # a frame at a time
    parts = model.encode_video(video, plan=plan)
    for one, other in zip(tensors(parts), tensors(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert parts.grid == whole.grid and parts.extras.keys() == {"attention_last", "keys"}


def tensors(video):
    return [video.features, video.shallow, video.deep, *(video.extras[name] for name in sorted(video.extras))]


def test_pixels_of_the_host_are_laid_in_page_locked_memory_for_a_gpu(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    host, elsewhere = torch.zeros(2), torch.zeros(2, device="meta")
    with Prefetcher([host, elsewhere], pinned=True) as chunks:
        assert [chunk.device.type for chunk in chunks] == ["cpu", "meta"]
    assert len(pinned) == 1 and pinned[0] is host
