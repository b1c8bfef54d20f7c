"""vLLM in a process of its own: answers the questions of a job folder and leaves their tokens there.

job.json: {"engine": arguments of vllm.LLM, "prompts": [{"text": ..., "videos": [numbers], "images": [numbers],
"embeds": number}], "max_tokens": ...}; frames.npy (V, T, H, W, 3); embeds.safetensors with a tensor for each number.
Writes answers.json: [{"tokens": ids, "logprob": of the first one, "prompt": tokens of the prompt}].
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file
from vllm import LLM, SamplingParams


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    frames = np.load(folder / "frames.npy")
    embeds = load_file(folder / "embeds.safetensors") if (folder / "embeds.safetensors").exists() else {}
    engine = LLM(dtype="float32", enforce_eager=True, seed=0, **job["engine"])
    asked = [request(prompt, frames, embeds) for prompt in job["prompts"]]
    sampling = SamplingParams(temperature=0, max_tokens=job["max_tokens"], logprobs=1)
    answers = []
    for output in engine.generate(asked, sampling, use_tqdm=False):
        said = output.outputs[0]
        first = said.logprobs[0][said.token_ids[0]].logprob
        answers.append({"tokens": list(said.token_ids), "logprob": first, "prompt": len(output.prompt_token_ids)})
    (folder / "answers.json").write_text(json.dumps(answers))


def request(prompt: dict, frames: np.ndarray, embeds: dict) -> dict:
    """What LLM.generate takes."""
    if "embeds" in prompt:
        return {"prompt_embeds": embeds[str(prompt["embeds"])]}
    media = {
        "video": [frames[number] for number in prompt.get("videos", ())],
        "image": [Image.fromarray(frames[number][0]) for number in prompt.get("images", ())],
    }
    return {"prompt": prompt["text"], "multi_modal_data": {kind: items for kind, items in media.items() if items}}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
