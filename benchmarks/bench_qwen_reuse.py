"""The vision towers of Qwen2.5-VL and Qwen3-VL with `tower_reuse` over the same without, on a CPU, in turn in one run.

    python -m benchmarks.bench_qwen_reuse [--shares 0 50 90] [--layers 4] [--pairs 8]

Published widths, random weights in the faster of bfloat16 and float32, and pairs of frames of 16x16 blocks, of which a
share in percent stands still. "flops" is the ratio that is counted. A wrong result ends the run without a time. The
last line is JSON.
"""

import sys
from functools import partial
from typing import Any

import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3

from aot.integrations.duplicate_frames import encode_once, encoding_once
from aot.integrations.qwen_patch_reuse import reuse_blocks
from aot.integrations.vision_outputs import capturing
from aot_tiny.training.train import faster_dtype
from benchmarks.measure import environment, make_parser, measure_parts, reuse_ratios

SIDE = 16  # blocks


def make_tower(name: str, layers: int) -> Any:
    """With the hooks of `aot.apply`. Every fourth layer of Qwen2.5-VL sees whole frames, every eighth if published."""
    if name == "qwen2_5_vl":
        tower = qwen2_5.Qwen2_5_VisionTransformerPretrainedModel
        shape = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048}
        shape["fullatt_block_indexes"] = [*range(3, layers, 4)]
    else:
        tower = qwen3.Qwen3VLVisionModel
        shape = {"hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 2560}
        shape["deepstack_visual_indexes"] = [*range(min(3, layers))]
    config = tower.config_class(depth=layers, num_heads=16, attn_implementation="sdpa", **shape)
    made = tower(config).to(faster_dtype()).eval()
    encode_once(made)
    reuse_blocks(made)
    return made


def still_clip(tower: Any, pairs: int, share: float) -> torch.Tensor:
    """(n, C) packed pixels of which that share of the blocks is the same in all pairs."""
    blocks = torch.randn(pairs, SIDE**2, tower.spatial_merge_size**2 * tower.patch_embed.proj.weight[0].numel())
    still = round(share * SIDE**2)
    blocks[1:, :still] = blocks[0, :still]
    return blocks.reshape(pairs * SIDE**2 * tower.spatial_merge_size**2, -1).to(tower.dtype)


def tower_ratios(name: str, options) -> dict:
    """The tower with `tower_reuse` over the tower without, on clips of which a share stands still."""
    tower, pairs = make_tower(name, options.layers), options.pairs
    side = SIDE * tower.spatial_merge_size

    def encode(pixels: torch.Tensor, reuse: float | None) -> tuple[torch.Tensor, float]:
        with encoding_once(reuse) as work, capturing([]):
            output = tower(pixels, grid_thw=torch.tensor([[pairs, side, side]]))
        output = output[0] if isinstance(output, tuple) else output  # transformers 4
        return getattr(output, "pooler_output", output), work.share

    clips = {share / 100: still_clip(tower, pairs, share / 100) for share in options.shares}
    made = {"pairs": pairs, "layers": options.layers, "dtype": str(tower.dtype)}
    return made | reuse_ratios(encode, clips, repeats=options.repeats)


def main() -> int:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--towers", nargs="+", choices=("qwen2_5_vl", "qwen3_vl"), default=["qwen2_5_vl", "qwen3_vl"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0, 50, 90], help="percent")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=8, help="temporal pairs of frames")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {"benchmark": "qwen_reuse", **environment(torch.device("cpu"))}
    measure_parts(result, {name: partial(tower_ratios, name, options) for name in options.towers}, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
