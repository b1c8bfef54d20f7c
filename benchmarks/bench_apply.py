"""What `aot.apply` itself costs on transformers' models, and what it saves: time and memory of reading a prompt.

A model with random weights reads a prompt with one video: plain, with aot.apply at all tokens (what reading attention,
choosing nothing and splicing cost), and at a share of them. Each case runs in a process of its own, whose peak memory
beyond the loaded model is counted. Printed are ratios to the plain model, the share of the time that compressing takes,
and the mean retention.

    python -m benchmarks.bench_apply                       a minute a family on one core
    python -m benchmarks.bench_apply --family InternVL --device cuda --frames 32 --scale 4
"""

import argparse
import json
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import torch
import transformers

import aot
from benchmarks.measure import seconds

FAMILIES = ("Qwen3VL", "InternVL", "LlavaNextVideo")
SIDE = 8  # tokens of a frame's side
IMAGE, VIDEO, START, END, VOCABULARY = 100, 101, 102, 103, 128


def model_and_inputs(family: str, frames: int, scale: int):
    """A model of a family, `scale` times as wide as the smallest, and a prompt with a video of so many frames."""
    width = 128 * scale
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 2 * width, "intermediate_size": 6 * width, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 2**16,
    }  # fmt: skip
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4, "num_hidden_layers": 8}
    per_frame, pixels = SIDE**2, 16 * SIDE  # patches of 8x8 pixels, merged 2x2
    if family == "Qwen3VL":
        rope = {"rope_type": "default", "mrope_section": [width // 16, width // 32, width // 32], "rope_theta": 1e6}
        new = int(transformers.__version__.split(".")[0]) >= 5
        config = transformers.Qwen3VLConfig(
            vision_config={
                "depth": 8, "num_heads": 4, "patch_size": 8, "hidden_size": width, "intermediate_size": 4 * width,
                "out_hidden_size": 2 * width, "num_position_embeddings": 256, "deepstack_visual_indexes": [1, 3, 5],
            },
            text_config={**text, "head_dim": width // 4, "rope_parameters" if new else "rope_scaling": rope},
            image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
        )  # fmt: skip
        grid = [frames, 2 * SIDE, 2 * SIDE]
        rows = sum(([10 + frame, START, *[VIDEO] * per_frame, END] for frame in range(frames)), [])
        ids = torch.tensor([[5, 6, *rows, 7, 8]])
        inputs = {"pixel_values_videos": torch.randn(4 * frames * per_frame, 3 * 2 * 64)}
        inputs |= {"video_grid_thw": torch.tensor([grid]), "mm_token_type_ids": 2 * (ids == VIDEO).int()}
        if not new:
            del inputs["mm_token_type_ids"]
        model = transformers.Qwen3VLForConditionalGeneration(config)
    elif family == "InternVL":
        config = transformers.InternVLConfig(
            vision_config={**tower, "image_size": [pixels] * 2, "patch_size": [8, 8]},
            text_config=transformers.Qwen2Config(**text),
            image_token_id=IMAGE,
        )
        ids = torch.tensor([[5, 6, *sum(([10 + f, *[IMAGE] * per_frame] for f in range(frames)), []), 7, 8]])
        inputs = {"pixel_values": torch.randn(frames, 3, pixels, pixels), "video_frames": [range(frames)]}
        model = transformers.InternVLForConditionalGeneration(config)
    else:
        config = transformers.LlavaNextVideoConfig(
            vision_config=transformers.CLIPVisionConfig(**tower, image_size=pixels, patch_size=8),
            text_config=transformers.LlamaConfig(**text),
            image_token_index=IMAGE, video_token_index=VIDEO,
        )  # fmt: skip
        ids = torch.tensor([[5, 6, *[VIDEO] * (frames * per_frame), 7, 8]])
        inputs = {"pixel_values_videos": torch.randn(1, frames, 3, pixels, pixels)}
        model = transformers.LlavaNextVideoForConditionalGeneration(config)
    return model.eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), **inputs}


def peak(device: torch.device) -> float:
    """MiB at most so far: of the process, or of the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.inference_mode()
def one(family: str, case: str, options) -> dict:
    """Figures of one case: "plain", or a retention."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    model, inputs = model_and_inputs(family, options.frames, options.scale)
    model.to(device)
    inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    model(input_ids=inputs["input_ids"][:, :2])  # what is loaded at the first call
    before = peak(device)
    applied = None
    if case == "plain":
        inputs.pop("video_frames", None)
    else:
        applied = aot.apply(model, float(case))
    spent = seconds(lambda _: model(**inputs, logits_to_keep=1), device, repeats=options.repeats)
    found = {"seconds": spent, "memory": peak(device) - before, "compress": 0.0, "retention": 1.0}
    if applied is not None:
        found |= {"compress": applied.seconds, "retention": applied.last[0].retention}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--retention", type=float, default=0.1)
    parser.add_argument("--frames", type=int, default=16, help="frames of the vision tower")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for family in options.family or FAMILIES:
        found = {}
        for case in ("plain", "1.0", str(options.retention)):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found[case] = pool.submit(one, family, case, options).result()
        plain = found.pop("plain")
        for figures in found.values():
            line = {
                "family": family,
                "retention": round(figures["retention"], 3),
                "time": round(figures["seconds"] / plain["seconds"], 3),
                "memory": round(figures["memory"] / max(plain["memory"], 1), 3),
                "compression, share of the time": round(figures["compress"] / figures["seconds"], 3),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
