"""vLLM with the plugin answers as this project's own path does, token for token, greedily."""

from dataclasses import replace

import numpy as np
import pytest

from aot import AOTConfig

from .conftest import CHUNKED, WHOLE, check

pytest.importorskip("vllm", reason="vLLM is not installed; scripts/test_vllm.sh installs it")

STOCK = {"architectures": ["LlavaOnevisionForConditionalGeneration"]}


@pytest.fixture(scope="module")
def compressed(own, exam) -> list[dict]:
    return own.answers(exam, AOTConfig(retention=0.1))


@pytest.fixture(scope="module")
def uncompressed(own, exam) -> list[dict]:
    return own.answers(exam, None)


def test_the_questions_can_tell(compressed, uncompressed):
    """Enough of the fifty answers depend on the compression."""
    assert sum(a["tokens"] != b["tokens"] for a, b in zip(compressed, uncompressed, strict=True)) >= 5


@pytest.mark.parametrize("processes", [False, True], ids=["one-process", "several-processes"])
@pytest.mark.parametrize("engine", [WHOLE, CHUNKED], ids=["whole", "chunked"])
def test_compressed(vllm_answers, exam, compressed, engine, processes):
    overrides = {"aot": {"retention": 0.1}}
    check(vllm_answers(exam, processes=processes, hf_overrides=overrides, **engine), compressed, exam)


def test_without_compression(vllm_answers, exam, uncompressed):
    check(vllm_answers(exam, processes=True, **CHUNKED), uncompressed, exam)


def test_another_method_without_newlines(vllm_answers, own, exam):
    config = AOTConfig(retention=0.25, method="visionzip", newlines="none")
    found = vllm_answers(exam, processes=True, hf_overrides={"aot": config.to_dict()}, **CHUNKED)
    check(found, own.answers(exam, config), exam)


@pytest.mark.parametrize("config", [AOTConfig(retention=0.1), None], ids=["compressed", "all-tokens"])
def test_three_times_the_frames(vllm_answers, own, exam, config):
    """A server started for 48 frames sizes its encoder by them: 1,776 tokens, more than 16 frames or a step have."""
    frames = np.concatenate([exam.frames[0:3], exam.frames[1:4], exam.frames[2:5]], axis=1)
    about = [prompt for prompt in exam.prompts if prompt.videos in ((0,), (1,), (2,)) and not prompt.images]
    long = replace(exam, frames=frames, prompts=about)
    assert frames.shape[1] == 48 and len(about) >= 3
    overrides = {"aot": config and config.to_dict(), "mm_video_frames": 48}
    room = {"limit_mm_per_prompt": {"image": 0, "video": 1}, "max_num_batched_tokens": 512, "max_num_seqs": 16}
    check(vllm_answers(long, processes=True, hf_overrides=overrides, **room), own.answers(long, config), long)


@pytest.mark.parametrize(
    ("config", "overrides", "engine"),
    [(AOTConfig(retention=0.1), STOCK, CHUNKED), (AOTConfig.preset("released", num_anchors=20), {}, WHOLE)],
    ids=["default-stock-chunked", "released-plugin-whole"],
)
def test_split(vllm_answers, own, exam, config, overrides, engine):
    """Embeddings of the whole prompt, made by our own path, in vLLM's own class or ours: any preset, any count."""
    embeds = [own.embeds(exam, prompt, config) for prompt in exam.prompts]
    text = {"hf_overrides": overrides, "enable_prompt_embeds": True, "limit_mm_per_prompt": {"image": 0, "video": 0}}
    check(vllm_answers(exam, processes=True, embeds=embeds, **text, **engine), own.answers(exam, config), exam)
