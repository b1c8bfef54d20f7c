"""Ratios that hold on a CPU whatever its speed, each pair measured in turn in one run.

    python -m benchmarks.bench_cpu [--tower tiny so400m] [--layers 2] [--frames 32]

attention: a tower's forward pass with the received attention of two layers over one without. prefill: uncompressed
prefill over compression and prefill at 10 %, on the 0.5B shape (width 896) with --layers of its 24 language layers;
fewer layers make the compression weigh more. precision: SigLIP so400m with --layers of its 26 layers in float32 over
bfloat16. The last line is JSON.
"""

import argparse
import copy
import json
import sys
from pathlib import Path

import torch

from aot import AOTConfig, compress, layers, pool_tokens
from benchmarks.attention import Wrong, attention_ratio
from benchmarks.measure import circumstances, relative_error, seconds_in_turn
from benchmarks.shapes import VISION, make_model

CPU = torch.device("cpu")
GRID = (27, 27)


def so400m(depth: int | None = None):
    """SigLIP so400m with random weights; depth: layers, fewer than its 26."""
    from llava.model.language_model.llava_qwen import LlavaQwenConfig
    from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower

    tower = SigLipVisionTower(LlavaQwenConfig(**VISION)).eval()
    del tower.vision_tower.vision_model.encoder.layers[depth:]
    return tower


def precision_ratio(depth: int, repeats: int) -> dict:
    """A tower on one frame, with the received attention of two layers, in float32 and in bfloat16."""
    whole = so400m(depth)
    half = copy.deepcopy(whole).to(torch.bfloat16)
    pixels = torch.randn(1, 3, whole.image_size, whole.image_size)
    error = relative_error(half.encode(pixels).features, whole.encode(pixels).features)
    if not error < 0.05:
        sys.exit(f"The tower in bfloat16 is off by {error:.1%}; no time is reported.")
    wanted = layers(depth)
    works = {
        "float32": lambda _: whole.encode(pixels, received=wanted),
        "bfloat16": lambda _: half.encode(pixels, received=wanted),
    }
    times = seconds_in_turn(works, CPU, repeats=repeats)
    return {"frames": 1, "layers": depth, "relative_error": error, **_result(times, "float32", "bfloat16")}


def prefill_ratio(frames: int, depth: int, repeats: int) -> dict:
    """The language model alone, on features that resemble those of a video."""
    model = make_model("0.5b", CPU, layers=depth, tower=False)
    width, tokens = model.config.hidden_size, GRID[0] * GRID[1]
    features = torch.randn(1, tokens, width) + 0.3 * torch.randn(frames, tokens, width)
    maps = torch.rand(2, frames, tokens)
    config = AOTConfig(retention=0.1)

    def prefill(visual: torch.Tensor) -> torch.Tensor:
        return model(inputs_embeds=visual[None], logits_to_keep=1, use_cache=True).logits

    def uncompressed(_) -> torch.Tensor:
        return prefill(pool_tokens(features, GRID, "bilinear").flatten(0, 1))

    def compressed(_) -> torch.Tensor:
        return prefill(compress(features, *maps, config).tokens)

    counts = len(compress(features, *maps, config).tokens), config.budget(frames, 196)
    if counts[0] != counts[1] or not bool(compressed(0).isfinite().all()):
        sys.exit("The compressed prefill is wrong; no time is reported.")
    times = seconds_in_turn({"uncompressed": uncompressed, "compressed": compressed}, CPU, repeats=repeats)
    return {"frames": frames, "layers": depth, **_result(times, "uncompressed", "compressed")}


def _result(times: dict[str, float], over: str, under: str) -> dict:
    return {f"{name}_ms": 1e3 * value for name, value in times.items()} | {"ratio": times[over] / times[under]}


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tower", nargs="*", choices=("tiny", "so400m"), default=["tiny"])
    parser.add_argument("--frames", type=int, default=32, help="frames of the prefill; 0 leaves it and precision out")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="file for the JSON, beside the last line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    result = {"benchmark": "cpu", **circumstances(CPU), "attention": []}
    for name in options.tower:
        tower = make_model("tiny", CPU).get_vision_tower() if name == "tiny" else so400m()
        try:
            ratio = attention_ratio(tower, 16 if name == "tiny" else 1, repeats=5 * options.repeats)
        except Wrong as reason:
            sys.exit(f"{reason}; no time is reported.")
        result["attention"].append({"tower": name, **ratio})
        print(result["attention"][-1], flush=True)
    if options.frames:
        result["prefill"] = prefill_ratio(options.frames, options.layers, options.repeats)
        print(result["prefill"], flush=True)
        result["precision"] = precision_ratio(options.layers, options.repeats)
        print(result["precision"], flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
