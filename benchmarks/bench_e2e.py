"""From pixels to the first token: tower, method, prefill, peak memory, at several settings and numbers of frames.

    python -m benchmarks.bench_e2e [--shapes 7b 0.5b tiny] [--frames 8 32 128] [--seconds 270] [--output FILE]

uncompressed with fused and with plain ("eager") attention, AOT at 25, 10 and 5 %, and the released way of working in
plain PyTorch, whose tokens are compared with the preset's. When asked for, also the tower compiled and as CUDA
graphs, whose features are compared with the plain tower's, and AOT at 10 % behind the fast tower, which is in
--fast-dtype and reuses what stands still, on clips where nine tenths, half and none of the patches do. Above
--stream-from frames the video is compressed while it is read. A row whose result is wrong, or for which time or size do
not suffice, says so and has no time. The last line is JSON.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from aot import AOTConfig, compress
from aot import layers as importance_layers
from aot.clips import uniform_clips
from benchmarks.bench_cpu import still_clip
from benchmarks.measure import (
    FEATURE_ERROR,
    REUSE,
    WrongResult,
    attention_ratio,
    check,
    environment,
    make_parser,
    relative_error,
    save,
    seconds,
    synchronize,
)
from benchmarks.models import SHAPES, all_maps, eager, make_model
from benchmarks.plain_released import plain_released
from llava.model.long_video import compress_stream

PROMPT = 20  # text tokens beside the video
SETTINGS = ("uncompressed", "uncompressed eager", "aot 25 %", "aot 10 %", "aot 5 %", "released plain")
MODES = {"aot 10 % compiled tower": "compile", "aot 10 % graphed tower": "cuda_graphs"}
FAST_TOWER = {  # share of patches that stay
    "aot 10 % fast tower, still": 0.9,
    "aot 10 % fast tower, half still": 0.5,
    "aot 10 % fast tower, moving": 0.0,
}
MOST_TOKENS = {"uncompressed": 40_000, "uncompressed eager": 13_000}  # what memory and time allow
MOST_RELEASED = 32  # frames; their maps take 14 GB on the published tower
CHUNK = 32
ALIKE = 0.9  # of the tokens of the released way of working; between 0.95 and 1 was seen
MORE_RUNS = 10  # times as many runs of the method, which takes less than a millisecond


def alike(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Share of the larger set of tokens (S, D) that the other set holds too, within a thousandth of their length.

    Where a token is as certain as the quantile says, the last digit decides whether it stays, and its clip differs.
    """
    apart = torch.cdist(theirs.double(), ours.double()).amin(dim=1) / theirs.double().norm(dim=1)
    return float((apart < 1e-3).sum()) / max(len(ours), len(theirs))


def steps(model, pixels: torch.Tensor, setting: str, *, stream: bool) -> tuple:
    """(encode, reduce): pixels -> encoded video, encoded video -> tokens (S, D)."""
    frames = len(pixels)
    if setting == "released plain":
        tower = model.get_vision_tower()
        grid = (tower.num_patches_per_side,) * 2
        config = AOTConfig.preset("released", num_anchors=max(18, 126 * tower.num_patches // 729))
        settings = {"grid": grid, "pool": "bilinear", "clips": uniform_clips(frames)}
        chosen = importance_layers(tower.num_layers)
        features, maps = all_maps(model, pixels)
        ours = plain_released(features, maps, chosen, config, **settings)
        shallow, deep = (maps[layer].float().mean(1).sum(1) for layer in chosen)
        theirs = compress(features.float(), shallow, deep, config, pool="bilinear", clips=settings["clips"]).tokens
        found = alike(ours, theirs)
        check(found >= ALIKE, f"of the preset's tokens the plain version gives {found:.0%}")
        return (
            lambda: all_maps(model, pixels),
            lambda video: plain_released(*video, chosen, config, **settings).to(model.dtype),
        )
    reuse = REUSE if setting in FAST_TOWER else None
    share = 1.0 if "uncompressed" in setting else int(setting.split()[1]) / 100
    model.config.aot = None if share == 1 else {"retention": share, "tower_reuse": reuse}
    if stream and model.config.aot:
        return lambda: compress_stream(model, pixels.split(CHUNK)), lambda video: video.tokens
    return lambda: model.encode_videos([pixels])[0], lambda video: model.video_tokens(video)[0]


def measure(model, shape: str, frames: int, setting: str, *, repeats: int, stream: bool) -> dict:
    """One row, or what stands against it."""
    device = model.device
    tower = model.get_vision_tower()
    row = {"shape": shape, "frames": frames, "setting": setting}
    side = (tower.num_patches_per_side + 1) // 2
    if frames * side**2 > MOST_TOKENS.get(setting, 2**30):
        return row | {"left_out": "too many tokens"}
    if setting == "released plain" and frames > MOST_RELEASED:
        return row | {"left_out": "its attention maps are too large"}
    # random, since kernels can run faster on zeros
    if setting in FAST_TOWER:
        pixels = still_clip(tower, frames, FAST_TOWER[setting]).to(device)
    else:
        pixels = torch.randn(frames, 3, tower.image_size, tower.image_size, device=device, dtype=tower.dtype)
    weights = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    encode, reduce = steps(model, pixels, setting, stream=stream)
    prompt = torch.randn(1, PROMPT, model.config.hidden_size, device=device, dtype=model.dtype)

    def prefill(tokens):
        return model(inputs_embeds=torch.cat([prompt, tokens[None]], dim=1), logits_to_keep=1, use_cache=True).logits

    model.reset_statistics()
    video = encode()
    tokens = reduce(video)
    logits = prefill(tokens)
    if model.config.aot and setting.startswith("aot"):
        wanted, newlines = model.config.aot.token_count(
            frames, side**2, newline_position=model.config.mm_newline_position
        )
        check(len(tokens) == wanted + newlines, f"{len(tokens)} tokens, {wanted + newlines} expected")
    check(bool(tokens.isfinite().all() and logits.isfinite().all()), "not finite")
    row["tokens"], (spent, whole) = len(tokens), model.last_tower_flops
    if whole:  # what runs its own layers counts nothing
        row["tower_share"] = spent / whole
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clock = {
        "tower": lambda _: encode(),
        "method": lambda _: reduce(video),
        "prefill": lambda _: prefill(tokens),
        "first_token": lambda _: prefill(reduce(encode())),
    }
    for name, work in clock.items():
        often = repeats * (MORE_RUNS if name == "method" and device.type == "cuda" else 1)
        row[f"{name}_ms"] = 1e3 * seconds(work, device, repeats=often, warmup=0)
    if device.type == "cuda":
        row["peak_mib"] = (torch.cuda.max_memory_allocated(device) - weights) / 2**20
    return row


@torch.inference_mode()
def main() -> int:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["tiny"])
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--settings", nargs="+", choices=(*SETTINGS, *MODES, *FAST_TOWER), default=list(SETTINGS))
    parser.add_argument("--layers", type=int, help="layers of the language model, fewer than published")
    parser.add_argument(
        "--fast-dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="type of the fast tower; float32 on a processor without bfloat16",
    )
    parser.add_argument("--no-attention", action="store_true", help="leave out what received attention adds")
    parser.add_argument("--stream-from", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=1e9, help="no row is begun after that")
    options = parser.parse_args()
    device, start, rows, attention = torch.device(options.device), time.monotonic(), [], []
    result = {"benchmark": "e2e", **environment(device), "layers": options.layers}
    result |= {"fast_dtype": options.fast_dtype, "attention": attention, "rows": rows}
    torch.manual_seed(0)
    for shape in options.shapes:
        model = make_model(shape, device, layers=options.layers)
        often = options.repeats * (MORE_RUNS if device.type == "cuda" else 1)
        if not options.no_attention:
            try:
                added = attention_ratio(model.get_vision_tower(), options.frames[0], repeats=often)
            except WrongResult as reason:
                added = {"wrong": str(reason)}
            attention.append({"shape": shape, **added})
            print(attention[-1], flush=True)
        for frames in options.frames:
            for setting in options.settings:
                plan = {"shape": shape, "frames": frames, "setting": setting}
                if time.monotonic() - start > options.seconds:
                    rows.append(plan | {"left_out": "time"})
                else:
                    rows.append(attempt(model, plan, options))
                print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
                save(result, options.output)  # after every row, so that a run that is stopped leaves what it has
        del model
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(json.dumps(result))
    return int(any("wrong" in row for row in rows + attention))


def attempt(model, plan: dict, options) -> dict:
    """A measured row; a wrong result or too little memory is written down instead of a time."""
    stream, tower = plan["frames"] >= options.stream_from, model.get_vision_tower()
    way = nullcontext()
    if plan["setting"] in MODES:
        way = tower_mode(tower, MODES[plan["setting"]])
    elif "eager" in plan["setting"]:
        way = eager(model)
    elif plan["setting"] in FAST_TOWER:
        way = in_dtype(tower, getattr(torch, options.fast_dtype))
    try:
        with way:
            return measure(model, **plan, repeats=options.repeats, stream=stream)
    except WrongResult as reason:
        return plan | {"wrong": str(reason)}
    except torch.OutOfMemoryError:
        return plan | {"left_out": "not enough memory"}
    except ValueError as reason:  # a mode that cannot be had
        return plan | {"left_out": str(reason)}


@contextmanager
def tower_mode(tower, mode: str) -> Iterator[None]:
    """The tower in a mode for the time inside; WrongResult where its features are others, or it fails."""
    pixels = torch.randn(2, 3, tower.image_size, tower.image_size, device=tower.device, dtype=tower.dtype)
    plain = tower(pixels)
    tower.set_mode(mode)
    try:
        check(relative_error(tower(pixels), plain) < FEATURE_ERROR, f"the tower in mode {mode} gives other features")
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as reason:  # of a recording or of the compiler
        raise WrongResult(str(reason).splitlines()[0]) from reason
    finally:
        tower.set_mode("eager")


@contextmanager
def in_dtype(tower, dtype: torch.dtype) -> Iterator[None]:
    """The tower in another type of numbers for the time inside."""
    before = [(parameter, parameter.data) for parameter in tower.parameters()]
    tower.to(dtype)
    try:
        yield
    finally:
        for parameter, values in before:
            parameter.data = values


if __name__ == "__main__":
    sys.exit(main())
