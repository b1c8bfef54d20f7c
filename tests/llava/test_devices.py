"""Published shapes on the device "meta", which holds no values: what lies elsewhere, or is read, fails there."""

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from aot import AOTConfig
from benchmarks.models import LANGUAGE, VISION
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from llava.model.long_video import compress_stream

META = torch.device("meta")


class Sent(TorchDispatchMode):
    """Copies from the host to the device."""

    def __init__(self):
        super().__init__()
        self.copies = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        if isinstance(result, torch.Tensor) and result.device == META and any(t.device != META for t in tensors):
            self.copies.append(function._schema.name)
        return result


@pytest.fixture(scope="module", params=["0.5b", "7b"])
def model(request):
    config = LlavaQwenConfig(**LANGUAGE[request.param] | VISION)
    with META:
        return LlavaQwenForCausalLM(config).eval().to(torch.bfloat16)


def encode(model, frames, dtype=torch.bfloat16):
    video = model.encode_videos([torch.empty(frames, 3, 384, 384, dtype=dtype, device=META)])[0]
    return model.video_tokens(video)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8], ids=str)
@torch.inference_mode()
def test_a_video_of_a_known_shape_stays_on_its_device(model, dtype):
    model.config.aot = {"retention": 0.1}
    encode(model, 32, dtype)
    with Sent() as sent:
        tokens = encode(model, 32, dtype)
    assert sent.copies == []
    visual, newlines = AOTConfig(retention=0.1).token_count(32, 196, newline_position="one_token")
    assert tokens.shape == (visual + newlines, model.config.hidden_size)
    if int(transformers.__version__.split(".")[0]) < 5:
        return  # its rotary embedding asks for an autocast that "meta" has not
    logits = model(inputs_embeds=tokens[None], logits_to_keep=1, use_cache=True).logits
    assert logits.shape == (1, 1, model.config.vocab_size)


@torch.inference_mode()
def test_a_stream_stays_on_its_device(model):
    model.config.aot = {"retention": 0.1}
    video = compress_stream(model, torch.empty(40, 3, 384, 384, device=META, dtype=torch.bfloat16).split(16))
    assert len(video.tokens) == 40 * 196 // 10 + 1 and video.tokens.device == META
