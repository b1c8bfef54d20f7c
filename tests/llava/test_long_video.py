"""Videos that are compressed while they are read."""

import time

import numpy as np
import pytest
import torch

from aot import AOTConfig
from llava.model.long_video import compress_stream, one_ahead, pixel_chunks


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
    with pytest.raises(ValueError, match="the file ends here"):
        for item in one_ahead(chunks()):
            deadline = time.monotonic() + 10
            while len(made) < min(3, item + 2) and time.monotonic() < deadline:
                time.sleep(0.01)
            seen.append((item, len(made)))
    assert seen == [(0, 2), (1, 3), (2, 3)]
