"""Ratios that hold on a CPU whatever its speed, each pair measured in turn in one run.

    python -m benchmarks.bench_cpu [--parts compress attention prefill precision] [--layers 2] [--frames 32]
    python -m benchmarks.bench_cpu --parts methods
    python -m benchmarks.bench_cpu --parts reuse --frames 8 --layers 26 [--shares 0 25 50 75 90 100]

compress: `aot.compress` at 10 % over one torch.bmm of 32 x (603x896)·(896x126). attention: a tower's forward pass
with the received attention of two layers over one without. prefill: uncompressed prefill over compression and prefill
at 10 %, on the 0.5B shape (width 896) with --layers of its 24 language layers; fewer layers make the compression
weigh more. precision: SigLIP so400m with --layers of its 26 layers in float32 over bfloat16. methods: the default over
EVS and over FlashVID, and every method's milliseconds, on pooled tokens of a still scene with a moving part. reuse:
that tower with features reused in time over the tower without, by the share of patches that stand still; "flops" is
the ratio that is counted. A wrong result ends the run without a time. The last line is JSON; the exit status is 1 when
the ratio of "compress" is above --limit, or the default takes more than twice EVS's time or more than FlashVID's.
"""

import copy
import sys
from functools import partial

import torch

from aot import AOTConfig, CompressedVideo, compress, layers, method_names, pool_tokens
from aot.registry import get_method
from benchmarks.measure import (
    attention_ratio,
    check,
    environment,
    make_parser,
    measure_parts,
    ratio,
    relative_error,
    reuse_ratios,
    seconds_in_turn,
)
from benchmarks.models import VISION, make_model

CPU = torch.device("cpu")
GRID, WIDTH = (27, 27), 896
CONFIG = AOTConfig(retention=0.1)
POOLED, POOLED_WIDTH = (14, 14), 3584  # of methods
TIMES_EVS = 2.0  # most that the default may take of EVS's time


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


def compress_ratio(options) -> dict:
    """The default method on 27x27 tokens a frame, bilinear pooling, over a batched product."""
    inputs = still_scene(options.frames)
    found = compress(*inputs, CONFIG)
    check_compressed(found, inputs[0])
    check(torch.equal(found.tokens, compress(*inputs, CONFIG).tokens), "the result is not repeatable")
    left, right = torch.randn(32, 603, WIDTH), torch.randn(32, WIDTH, 126)
    works = {"compress": lambda _: compress(*inputs, CONFIG), "bmm": lambda _: torch.bmm(left, right)}
    times = seconds_in_turn(works, CPU, repeats=3 * options.repeats)
    return {"frames": options.frames, **ratio(times, "compress", "bmm")}


def attention_ratios(options) -> list[dict]:
    """What received attention adds to each tower."""
    rows = []
    for name in options.tower:
        tower = make_model("tiny", CPU).get_vision_tower() if name == "tiny" else so400m()
        added = attention_ratio(tower, 16 if name == "tiny" else 1, repeats=5 * options.repeats)
        rows.append({"tower": name, **added})
    return rows


def prefill_ratio(options) -> dict:
    """The language model alone, on features that resemble those of a video."""
    model = make_model("0.5b", CPU, layers=options.layers, tower=False)
    features, *maps = still_scene(options.frames)

    def prefill(visual: torch.Tensor) -> torch.Tensor:
        return model(inputs_embeds=visual[None], logits_to_keep=1, use_cache=True).logits

    works = {
        "uncompressed": lambda _: prefill(pool_tokens(features, GRID, "bilinear").flatten(0, 1)),
        "compressed": lambda _: prefill(compress(features, *maps, CONFIG).tokens),
    }
    check_compressed(compress(features, *maps, CONFIG), features)
    check(bool(works["compressed"](0).isfinite().all()), "the compressed prefill is not finite")
    times = seconds_in_turn(works, CPU, repeats=options.repeats)
    return {"frames": options.frames, "layers": options.layers, **ratio(times, "uncompressed", "compressed")}


def so400m(depth: int = 26):
    """SigLIP so400m with random weights; depth: layers, at most its 26."""
    from llava.model.language_model.llava_qwen import LlavaQwenConfig
    from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower

    tower = SigLipVisionTower(LlavaQwenConfig(**VISION)).eval()
    del tower.vision_tower.vision_model.encoder.layers[depth:]
    return tower


def precision_ratio(options) -> dict:
    """A tower on one frame, with the received attention of two layers, in float32 and in bfloat16."""
    whole = so400m(options.layers)
    towers = {"float32": whole, "bfloat16": copy.deepcopy(whole).to(torch.bfloat16)}
    pixels, wanted = torch.randn(1, 3, whole.image_size, whole.image_size), layers(options.layers)
    error = relative_error(towers["bfloat16"].encode(pixels).features, whole.encode(pixels).features)
    check(error < 0.05, f"the tower in bfloat16 is off by {error:.1%}")
    works = {name: lambda _, tower=tower: tower.encode(pixels, received=wanted) for name, tower in towers.items()}
    times = seconds_in_turn(works, CPU, repeats=options.repeats)
    return {"frames": 1, "layers": options.layers, "relative_error": error, **ratio(times, "float32", "bfloat16")}


def moving_scene(frames: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Arguments and extras of `compress`: pooled tokens (T, P, D) of a still scene with noise and a moving part."""
    tokens = POOLED[0] * POOLED[1]
    features = torch.randn(1, tokens, POOLED_WIDTH).repeat(frames, 1, 1)
    for frame in range(frames):
        features[frame, (7 * frame) % tokens :][:30] = torch.randn(1, POOLED_WIDTH)
    features += 0.3 * torch.randn(frames, tokens, POOLED_WIDTH)
    maps = torch.rand(3, frames, tokens)
    extras = {"attention_last": maps[2], "keys": torch.randn(frames, tokens, 72)}
    return {"features": features, "shallow": maps[0], "deep": maps[1]}, extras


def method_ratios(options) -> dict:
    """Every method that acts before the language model and reads nothing learnt, in turn on the same tokens."""
    video, extras = moving_scene(options.frames)
    works = {}
    for name in method_names():
        if get_method(name).in_llm or get_method(name).kind == "tuned":
            continue
        config = CONFIG.replace(method=name)

        def work(_, config=config) -> CompressedVideo:
            return compress(**video, config=config, pool=None, grid=POOLED, extras=extras)

        check(
            work(0).num_visual == config.budget(options.frames, POOLED[0] * POOLED[1]), f"the count of {name} is wrong"
        )
        works[name] = work
    times = seconds_in_turn(works, CPU, repeats=options.repeats)
    milliseconds = {name: round(1e3 * time, 2) for name, time in sorted(times.items(), key=lambda item: item[1])}
    ratios = {name: round(times["aot"] / times[name], 3) for name in ("evs", "flashvid")}
    return {"frames": options.frames, "grid": POOLED, "width": POOLED_WIDTH, "ms": milliseconds, "aot_over": ratios}


def still_clip(tower, frames: int, share: float) -> torch.Tensor:
    """Pixels (F, 3, S, S) in which that share of the patches is the same in all frames, in whole rows or nearly."""
    side, patch = tower.num_patches_per_side, tower.config.patch_size
    pixels = torch.rand(1, 3, tower.image_size, tower.image_size).repeat(frames, 1, 1, 1)
    for place in range(round((1 - share) * side**2)):
        row, column = (patch * index for index in divmod(place, side))
        pixels[1:, :, row : row + patch, column : column + patch] = torch.rand(frames - 1, 3, patch, patch)
    return 2 * pixels - 1


def tower_reuse_ratios(options) -> dict:
    """By dtype: the tower with features reused in time, on clips of which a share stands still."""
    frames, found = options.frames, {}
    for name in options.dtypes:
        tower = so400m(options.layers).to(getattr(torch, name))
        tower.config.num_hidden_layers = options.layers

        def encode(pixels: torch.Tensor, reuse: float | None, tower=tower) -> tuple[torch.Tensor, float]:
            output = tower.encode(pixels, reuse=reuse)
            return output.features, tower.flops(frames, output.patches) / tower.flops(
                frames, frames * tower.num_patches
            )

        clips = {share / 100: still_clip(tower, frames, share / 100) for share in options.shares}
        found[name] = {
            "frames": frames,
            "layers": options.layers,
            **reuse_ratios(encode, clips, repeats=options.repeats),
        }
    return found


PARTS = {
    "compress": compress_ratio,
    "attention": attention_ratios,
    "prefill": prefill_ratio,
    "precision": precision_ratio,
    "methods": method_ratios,
    "reuse": tower_reuse_ratios,
}


def main(words: list[str] | None = None) -> int:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS)[:4])
    parser.add_argument("--tower", nargs="+", choices=("tiny", "so400m"), default=["tiny"], help="of attention")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"], help="of reuse")
    parser.add_argument("--shares", nargs="+", type=float, default=[0, 25, 50, 75, 90, 100], help="of reuse, percent")
    parser.add_argument("--frames", type=int, default=32, help="frames of all parts but attention and precision")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=5.0, help="largest ratio of compress that passes")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    result = {"benchmark": "cpu", **environment(CPU), "limit": options.limit}
    measure_parts(result, {part: partial(PARTS[part], options) for part in options.parts}, options.output)
    slow = "compress" in result and result["compress"]["ratio"] > options.limit
    if "methods" in result:
        over = result["methods"]["aot_over"]
        slow = slow or over["evs"] > TIMES_EVS or over["flashvid"] > 1
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
