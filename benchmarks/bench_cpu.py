"""Ratios that hold on a CPU whatever its speed, each pair measured in turn in one run.

    python -m benchmarks.bench_cpu [--parts compress attention prefill precision] [--layers 2] [--frames 32]

compress: `aot.compress` at 10 % over one torch.bmm of 32 x (603x896)·(896x126). attention: a tower's forward pass
with the received attention of two layers over one without. prefill: uncompressed prefill over compression and prefill
at 10 %, on the 0.5B shape (width 896) with --layers of its 24 language layers; fewer layers make the compression
weigh more. precision: SigLIP so400m with --layers of its 26 layers in float32 over bfloat16. A wrong result ends the
run without a time. The last line is JSON; the exit status is 1 when the ratio of "compress" is above --limit.
"""

import copy
import json
import sys

import torch

from aot import AOTConfig, CompressedVideo, compress, layers, pool_tokens
from benchmarks.measure import (
    WrongResult,
    attention_ratio,
    check,
    environment,
    make_parser,
    ratio,
    relative_error,
    save,
    seconds_in_turn,
)
from benchmarks.models import VISION, make_model

CPU = torch.device("cpu")
GRID, WIDTH = (27, 27), 896
PARTS = ("compress", "attention", "prefill", "precision")
CONFIG = AOTConfig(retention=0.1)


def still_scene(frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (T, 729, 896) of frames that resemble each other, with two importance maps."""
    tokens = GRID[0] * GRID[1]
    features = torch.randn(1, tokens, WIDTH) + 0.3 * torch.randn(frames, tokens, WIDTH)
    return features, *torch.rand(2, frames, tokens)


def check_compressed(video: CompressedVideo, features: torch.Tensor) -> None:
    """WrongResult unless count, order, masses and tokens are right."""
    video.check()
    pooled = pool_tokens(features, GRID, "bilinear").double()
    height, width = video.grid
    index = video.frame * height * width + video.position[:, 0] * width + video.position[:, 1]
    own = pooled.flatten(0, 1)[index]
    # a merged token is (1 - s)·own + s·mean of others, s <= cap, and no other is longer than the longest
    bound = video.config.merge_cap * (own.norm(dim=1) + pooled.norm(dim=-1).max()) + 1e-3
    check(len(video.tokens) == CONFIG.budget(len(features), height * width), "the token count is wrong")
    check(bool((index.diff() > 0).all()), "the order is wrong")
    check(abs(float(video.mass.double().sum()) / video.tokens_before - 1) <= 1e-4, "the mass is wrong")
    check(bool(((video.tokens - own).norm(dim=1) <= bound).all()), "the tokens are wrong")


def compress_ratio(frames: int, repeats: int) -> dict:
    """The default method on 27x27 tokens a frame, bilinear pooling, over a batched product."""
    inputs = still_scene(frames)
    found = compress(*inputs, CONFIG)
    check_compressed(found, inputs[0])
    check(torch.equal(found.tokens, compress(*inputs, CONFIG).tokens), "the result is not repeatable")
    left, right = torch.randn(32, 603, WIDTH), torch.randn(32, WIDTH, 126)
    works = {"compress": lambda _: compress(*inputs, CONFIG), "bmm": lambda _: torch.bmm(left, right)}
    return {"frames": frames, **ratio(seconds_in_turn(works, CPU, repeats=3 * repeats), "compress", "bmm")}


def prefill_ratio(frames: int, depth: int, repeats: int) -> dict:
    """The language model alone, on features that resemble those of a video."""
    model = make_model("0.5b", CPU, layers=depth, tower=False)
    features, *maps = still_scene(frames)

    def prefill(visual: torch.Tensor) -> torch.Tensor:
        return model(inputs_embeds=visual[None], logits_to_keep=1, use_cache=True).logits

    works = {
        "uncompressed": lambda _: prefill(pool_tokens(features, GRID, "bilinear").flatten(0, 1)),
        "compressed": lambda _: prefill(compress(features, *maps, CONFIG).tokens),
    }
    check_compressed(compress(features, *maps, CONFIG), features)
    check(bool(works["compressed"](0).isfinite().all()), "the compressed prefill is not finite")
    times = seconds_in_turn(works, CPU, repeats=repeats)
    return {"frames": frames, "layers": depth, **ratio(times, "uncompressed", "compressed")}


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
    towers = {"float32": whole, "bfloat16": copy.deepcopy(whole).to(torch.bfloat16)}
    pixels, wanted = torch.randn(1, 3, whole.image_size, whole.image_size), layers(depth)
    error = relative_error(towers["bfloat16"].encode(pixels).features, whole.encode(pixels).features)
    check(error < 0.05, f"the tower in bfloat16 is off by {error:.1%}")
    works = {name: lambda _, tower=tower: tower.encode(pixels, received=wanted) for name, tower in towers.items()}
    times = seconds_in_turn(works, CPU, repeats=repeats)
    return {"frames": 1, "layers": depth, "relative_error": error, **ratio(times, "float32", "bfloat16")}


@torch.inference_mode()
def measure(part: str, options) -> dict | list[dict]:
    """One part of the result; attention has a row for each tower."""
    if part == "compress":
        return compress_ratio(options.frames, options.repeats)
    if part == "prefill":
        return prefill_ratio(options.frames, options.layers, options.repeats)
    if part == "precision":
        return precision_ratio(options.layers, options.repeats)
    rows = []
    for name in options.tower:
        tower = make_model("tiny", CPU).get_vision_tower() if name == "tiny" else so400m()
        rows.append({"tower": name, **attention_ratio(tower, 16 if name == "tiny" else 1, repeats=5 * options.repeats)})
    return rows


def main() -> int:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tower", nargs="+", choices=("tiny", "so400m"), default=["tiny"], help="of attention")
    parser.add_argument("--frames", type=int, default=32, help="frames of compress and prefill")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=5.0, help="largest ratio of compress that passes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    result = {"benchmark": "cpu", **environment(CPU), "limit": options.limit}
    for part in options.parts:
        try:
            result[part] = measure(part, options)
        except WrongResult as reason:
            sys.exit(f"{part}: {reason}; no time is reported.")
        print(part, result[part], flush=True)
    save(result, options.output)
    print(json.dumps(result))
    return int(result.get("compress", {"ratio": 0})["ratio"] > options.limit)


if __name__ == "__main__":
    sys.exit(main())
