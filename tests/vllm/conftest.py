"""Our own path's answers to fifty questions, and vLLM's to the same, on the same frames."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from aot import AOTConfig
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.eval.exam.questions import clip_files, make_exam
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.convert import convert
from llava.video import load_video

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "checkpoints" / "aot-tiny"
QUESTIONS, NEW_TOKENS = 50, 16
# two threads of vLLM's own would take other cores than the test was given
QUIET = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}

WHOLE = {"enable_chunked_prefill": False, "enable_prefix_caching": False, "max_num_batched_tokens": 8192}
# less than one video's tokens a step, and prompts that begin alike share their blocks
CHUNKED = {
    "enable_chunked_prefill": True,
    "enable_prefix_caching": True,
    "max_num_batched_tokens": 48,
    "max_num_seqs": 16,
}
CLOSE, CLOSE_PICTURES = 1e-3, 1e-2  # of log-probabilities; vLLM sums in another order, and pictures are long


@dataclass(frozen=True)
class Prompt:
    """A question with the numbers of the videos and images it is about, which stand in front of it."""

    text: str
    videos: tuple[int, ...] = ()
    images: tuple[int, ...] = ()

    def write(self, *, image: str, video: str) -> str:
        """The whole prompt; image, video: the mark of each."""
        marks = [image] * len(self.images) + [video] * len(self.videos)
        conversation = conv_templates["qwen_1_5"].copy()
        conversation.append_message(conversation.roles[0], "\n".join([*marks, self.text]))
        conversation.append_message(conversation.roles[1], None)
        return conversation.get_prompt()


@dataclass(frozen=True)
class Exam:
    """frames: (T, H, W, 3) uint8 of each video; metadata: what vLLM is to know of each, or None.

    image, video: what stands in a prompt for them.
    """

    frames: Sequence[np.ndarray]
    prompts: list[Prompt]
    metadata: dict | None = None
    image: str = "<image>"
    video: str = "<video>"


class OwnPath:
    """This project's model on the checkpoint."""

    def __init__(self, folder: Path):
        self.tokenizer, self.model, self.processor, _ = load_pretrained_model(str(folder), device_map="cpu")

    def inputs(self, exam: Exam, prompt: Prompt) -> dict:
        """Arguments of generate."""
        images = [process_images([picture(exam, i)], self.processor, self.model.config)[0] for i in prompt.images]
        videos = [self.processor.preprocess(exam.frames[i])["pixel_values"] for i in prompt.videos]
        ids = tokenizer_image_token(prompt.write(image="<image>", video="<image>"), self.tokenizer, IMAGE_TOKEN_INDEX)
        return {
            "inputs": torch.tensor([ids]),
            "images": [*images, *videos],
            "modalities": ["image"] * len(images) + ["video"] * len(videos),
            "image_sizes": [picture(exam, i).size for i in prompt.images] + [None] * len(videos),
        }

    @torch.inference_mode()
    def answers(self, exam: Exam, config: AOTConfig | None) -> list[dict]:
        """As tests/vllm/engine.py writes them."""
        self.model.config.aot = None if config is None else config.to_dict()
        found = []
        for prompt in exam.prompts:
            output = self.model.generate(
                **self.inputs(exam, prompt),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
            tokens = output.sequences[0].tolist()
            first = output.logits[0][0].float().log_softmax(-1)[tokens[0]].item()
            found.append({"tokens": tokens, "logprob": first, "prompt": len(self.embeds(exam, prompt, config))})
        return found

    @torch.inference_mode()
    def embeds(self, exam: Exam, prompt: Prompt, config: AOTConfig | None) -> torch.Tensor:
        """(L, D) embeddings of the whole prompt."""
        self.model.config.aot = None if config is None else config.to_dict()
        inputs = self.inputs(exam, prompt)
        prepared = self.model.prepare_inputs_labels_for_multimodal(
            inputs["inputs"], None, None, None, None, inputs["images"], inputs["modalities"], inputs["image_sizes"]
        )
        return prepared[4][0]


def picture(exam: Exam, number: int):
    from PIL import Image

    return Image.fromarray(exam.frames[number][0])


@pytest.fixture(scope="session")
def own() -> OwnPath:
    return OwnPath(CHECKPOINT)


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Path:
    """The embedded model in the layout of transformers."""
    return convert(CHECKPOINT, tmp_path_factory.mktemp("converted") / "aot-tiny")


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[int, Path]:
    return clip_files(make_exam(QUESTIONS), tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def exam(own, clips) -> Exam:
    """Fifty questions about one video each; four about two videos, four about a picture and a video, two about a
    picture, two about nothing.
    """
    items = make_exam(QUESTIONS)
    numbers = {clip: i for i, clip in enumerate(clips)}
    frames = [load_video(path, num_frames=own.model.config.mm_video_frames).frames for path in clips.values()]
    # in the tower's size, so that nobody resizes them again
    pixels = np.stack([own.processor.resize(list(video)).permute(0, 2, 3, 1).numpy() for video in frames])
    prompts = [Prompt(item.question.open_prompt(), (numbers[item.clip],)) for item in items]
    asked = [prompt.text for prompt in prompts]
    prompts += [Prompt(asked[i], (i % len(clips), (i + 1) % len(clips))) for i in range(4)]
    prompts += [Prompt(asked[i], (i % len(clips),), ((i + 1) % len(clips),)) for i in range(4)]
    prompts += [Prompt(asked[i], (), (i,)) for i in range(2)]
    prompts += [Prompt(asked[i]) for i in range(2)]
    return Exam(pixels, prompts)


@pytest.fixture
def vllm_answers(converted, tmp_path):
    """Factory: answers of vLLM to an exam. embeds: of whole prompts, in the place of their text and media."""
    from safetensors.torch import save_file

    def run(exam: Exam, *, processes: bool, embeds: list[torch.Tensor] | None = None, **engine) -> list[dict]:
        prompts = [
            {"text": p.write(image=exam.image, video=exam.video), "videos": p.videos, "images": p.images}
            for p in exam.prompts
        ]
        if embeds is not None:
            save_file({str(i): tensor.contiguous() for i, tensor in enumerate(embeds)}, tmp_path / "embeds.safetensors")
            prompts = [{"embeds": i} for i in range(len(embeds))]
        engine = {"model": str(converted), "max_model_len": 4096, **engine}
        job = {"engine": engine, "prompts": prompts, "max_tokens": NEW_TOKENS, "metadata": exam.metadata}
        (tmp_path / "job.json").write_text(json.dumps(job))
        np.savez(tmp_path / "frames.npz", *exam.frames)
        environment = os.environ | QUIET | {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(processes))}
        command = [sys.executable, str(Path(__file__).with_name("engine.py")), str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, cwd=ROOT)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return json.loads((tmp_path / "answers.json").read_text())

    return run


def check(found: list[dict], wanted: list[dict], exam: Exam) -> None:
    """Raises AssertionError unless vLLM's answers are those wanted, token for token."""
    assert [answer["prompt"] for answer in found] == [answer["prompt"] for answer in wanted]
    different = [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a["tokens"] != b["tokens"]]
    apart = [abs(a["logprob"] - b["logprob"]) for a, b in zip(found, wanted, strict=True)]
    print(f"{len(found) - len(different)} of {len(found)} equal; first log-probability within {max(apart):.1e}")
    assert not different
    for distance, prompt in zip(apart, exam.prompts, strict=True):
        assert distance < (CLOSE_PICTURES if prompt.images else CLOSE)
