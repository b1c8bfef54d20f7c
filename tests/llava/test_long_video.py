"""Videos that are compressed while they are read."""

import torch

from aot import AOTConfig
from llava.model.long_video import compress_stream


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
