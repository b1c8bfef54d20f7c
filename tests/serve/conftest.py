"""Real video files for the tests, made with PyAV."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM


def picture(number: int, height: int, width: int) -> np.ndarray:
    """(H,W,3) uint8: a bar as long as the frame's number over a colour of its own, so that frames differ."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[...] = np.random.RandomState(number).randint(0, 200, 3)
    frame[: height // 2, : 1 + number % width] = 255
    return frame


def write_video(path, *, frames=60, rate=30, size=(96, 64), codec="libx264", gop=12, pts=None, faststart=False):
    """Encodes a video; pts are milliseconds a frame for a varying rate."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", gop
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, size[1], size[0]), format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def write_audio(path):
    """Encodes one second of a tone, with no video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            wave = np.sin(np.arange(start, start + 1024) / 20)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> str:
    """60 frames at 30 a second, 96x64, H.264."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="session")
def other_clip(tmp_path_factory) -> str:
    """A second video, of another length."""
    return write_video(tmp_path_factory.mktemp("clip") / "other.mp4", frames=40, rate=20)


def write_checkpoint(path, **changes) -> str:
    """A tiny random model in the layout of the real ones, with a byte-level tokenizer."""
    settings = {
        "architectures": ["LlavaQwenForCausalLM"],
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 258,
        "mm_hidden_size": 32,
        "mm_vision_tower": "tiny",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "frame",
        "mm_spatial_pool_mode": "bilinear",
        "mm_video_frames": 8,
        "tokenizer_model_max_length": 4096,
        "mm_vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 96,
            "patch_size": 8,
        },
        **changes,
    }
    torch.manual_seed(0)
    LlavaQwenForCausalLM(LlavaQwenConfig(**settings)).save_pretrained(path)
    write_tokenizer(path)
    return str(path)


def write_tokenizer(path) -> None:
    """256 bytes and the three Qwen markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(path)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """A checkpoint folder: 8 frames, 12x12 tower tokens pooled to 6x6, a newline after each frame."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def loaded(checkpoint):
    """Tokenizer, model, image processor and context length of `checkpoint`."""
    return load_pretrained_model(checkpoint, None, "tiny", device_map="cpu", torch_dtype="float32")
