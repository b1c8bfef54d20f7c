"""vLLM in a process of its own: answers the questions of a job folder and leaves their tokens there.

job.json: {"engine": arguments of vllm.LLM, "prompts": [{"text": ..., "videos": [numbers], "images": [numbers],
"embeds": number}], "max_tokens": ..., "metadata": of every video, or null}; frames.npz with (T, H, W, 3) of each video;
embeds.safetensors with a tensor for each number.
Writes answers.json: [{"tokens": ids, "logprob": of the first one, "prompt": tokens of the prompt, "cached": those of
them that came from the prefix cache}].
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file
from vllm import LLM, SamplingParams
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from aot.vllm.startup import CheckedQwen
from tests.vllm import linear_attention


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    frames = list(np.load(folder / "frames.npz").values())
    embeds = load_file(folder / "embeds.safetensors") if (folder / "embeds.safetensors").exists() else {}
    _let_the_cpu_compute_positions()
    linear_attention.install()
    engine = LLM(dtype="float32", enforce_eager=True, seed=0, **job["engine"])
    asked = [request(prompt, frames, embeds, job["metadata"]) for prompt in job["prompts"]]
    sampling = SamplingParams(temperature=0, max_tokens=job["max_tokens"], logprobs=1)
    answers = []
    for output in engine.generate(asked, sampling, use_tqdm=False):
        said = output.outputs[0]
        first = said.logprobs[0][said.token_ids[0]].logprob
        lengths = {"prompt": len(output.prompt_token_ids), "cached": output.num_cached_tokens}
        answers.append({"tokens": list(said.token_ids), "logprob": first, **lengths})
    (folder / "answers.json").write_text(json.dumps(answers))


def request(prompt: dict, frames: list[np.ndarray], embeds: dict, metadata: dict | None) -> dict:
    """What LLM.generate takes."""
    if "embeds" in prompt:
        return {"prompt_embeds": embeds[str(prompt["embeds"])]}
    media = {
        "video": [frames[number] if metadata is None else (frames[number], metadata) for number in prompt["videos"]],
        "image": [Image.fromarray(frames[number][0]) for number in prompt["images"]],
    }
    return {"prompt": prompt["text"], "multi_modal_data": {kind: items for kind, items in media.items() if items}}


def _let_the_cpu_compute_positions() -> None:
    """The runner of a GPU asks the configuration whether positions are computed anew; that of a CPU leaves it out."""
    load = CPUModelRunner.load_model

    def load_model(runner: CPUModelRunner, *args, **kwargs) -> None:
        load(runner, *args, **kwargs)
        runner.is_multimodal_pruning_enabled = runner.model_config.multimodal_config.is_multimodal_pruning_enabled()

    CPUModelRunner.load_model = load_model
    CheckedQwen.recomputes_positions = staticmethod(lambda: True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
