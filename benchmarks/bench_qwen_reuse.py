"""The vision towers of Qwen2.5-VL and Qwen3-VL with `tower_reuse` over the same without, on a CPU, in turn in one run.

    python -m benchmarks.bench_qwen_reuse [--shares 0 50 90] [--layers 4] [--pairs 8]

Published widths, random weights in bfloat16, and pairs of frames of 16x16 blocks, of which a share in percent stands
still. "flops" is the ratio that is counted. A wrong result ends the run without a time. The last line is JSON.
"""

import json
import sys
from typing import Any

import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3

from aot.integrations.equal_frames import TowerWork, encode_once, encoding_once
from aot.integrations.qwen_reuse import reuse_blocks
from aot.integrations.vision_outputs import capturing
from benchmarks.measure import WrongResult, check, environment, make_parser, relative_error, save, seconds_in_turn

CPU = torch.device("cpu")
SIDE, REUSE = 16, 0.02  # blocks, and the largest difference of one that is reused


def make_tower(name: str, layers: int) -> Any:
    """With the hooks of `aot.apply`. Every fourth layer of Qwen2.5-VL sees whole frames, every eighth if published."""
    if name == "qwen2_5_vl":
        tower, whole = (
            qwen2_5.Qwen2_5_VisionTransformerPretrainedModel,
            {"fullatt_block_indexes": [*range(3, layers, 4)]},
        )
        shape = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048, **whole}
    else:
        tower, levels = qwen3.Qwen3VLVisionModel, {"deepstack_visual_indexes": [*range(min(3, layers))]}
        shape = {"hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 2560, **levels}
    config = tower.config_class(depth=layers, num_heads=16, attn_implementation="sdpa", **shape)
    made = tower(config).to(torch.bfloat16).eval()
    encode_once(made)
    reuse_blocks(made)
    return made


def still_clip(tower: Any, pairs: int, share: float) -> torch.Tensor:
    """(n, C) packed pixels of which that share of the blocks is the same in all pairs."""
    blocks = torch.randn(pairs, SIDE**2, tower.spatial_merge_size**2 * tower.patch_embed.proj.weight[0].numel())
    still = round(share * SIDE**2)
    blocks[1:, :still] = blocks[0, :still]
    return blocks.reshape(pairs * SIDE**2 * tower.spatial_merge_size**2, -1).bfloat16()


def encode(tower: Any, pixels: torch.Tensor, pairs: int, reuse: float | None) -> tuple[torch.Tensor, TowerWork]:
    side = SIDE * tower.spatial_merge_size
    with encoding_once(reuse) as work, capturing([]):
        output = tower(pixels, grid_thw=torch.tensor([[pairs, side, side]]))
    output = output[0] if isinstance(output, tuple) else output  # transformers 4
    return getattr(output, "pooler_output", output), work


def reuse_ratios(tower: Any, pairs: int, shares: list[float], repeats: int) -> dict:
    """Milliseconds of the plain tower, and of each share what is faster and by how much features are off."""
    clips = {share: still_clip(tower, pairs, share) for share in shares}
    rows = []
    for share, pixels in clips.items():
        plain, (found, work) = encode(tower, pixels, pairs, None)[0], encode(tower, pixels, pairs, REUSE)
        error = relative_error(found, plain)
        check(error < (0.02 if share in (0, 1) else 1), f"the features at {share:.0%} are off by {error:.1%}")
        rows.append({"still": share, "relative_error": error, "flops": 1 / work.share})
    works = {"plain": lambda _: encode(tower, clips[shares[0]], pairs, None)}
    works |= {share: lambda _, pixels=pixels: encode(tower, pixels, pairs, REUSE) for share, pixels in clips.items()}
    times = seconds_in_turn(works, CPU, repeats=repeats, warmup=0)  # each ran before
    for row in rows:
        row |= {"ms": 1e3 * times[row["still"]], "ratio": times["plain"] / times[row["still"]]}
    return {"pairs": pairs, "layers": len(tower.blocks), "plain_ms": 1e3 * times["plain"], "shares": rows}


@torch.inference_mode()
def main(words: list[str] | None = None) -> int:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--towers", nargs="+", choices=("qwen2_5_vl", "qwen3_vl"), default=["qwen2_5_vl", "qwen3_vl"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0, 50, 90], help="percent")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=8, help="temporal pairs of frames")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = {"benchmark": "qwen_reuse", **environment(CPU)}
    for name in options.towers:
        shares = [share / 100 for share in options.shares]
        try:
            result[name] = reuse_ratios(make_tower(name, options.layers), options.pairs, shares, options.repeats)
        except WrongResult as reason:
            sys.exit(f"{name}: {reason}; no time is reported.")
        print(name, result[name], flush=True)
    save(result, options.output)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
