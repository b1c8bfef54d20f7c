"""Compiles every kernel for sm_80 and sm_90 without a GPU and prints one JSON line each; test_kernels.py runs it."""

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from aot.ops.kernels import aggregate, attention, chain, cover, nearest, novelty, pair_cost, sinkhorn

HEAD = {"D": 72, "MAIN": 64, "REST": 16, "BM": 128, "BN": 64, "PRECISION": "tf32"}
TILES = {"BM": 64, "BN": 64, "BD": 64, "PRECISION": "tf32"}
CHAIN = {"STOP": 1, "QUANTILE": True, "KP": 32, "BD": 32}
# kernel, pointers with their types, float arguments (all others are integers), constants
KERNELS = [
    (attention.lse_kernel, "q:bf16 k:bf16 lse:fp32", "scale", HEAD),
    (attention.column_sum_kernel, "q:bf16 k:bf16 lse:fp32 received:fp32", "scale", HEAD),
    (
        sinkhorn.sinkhorn_kernel,
        "cost:fp32 supply:fp32 demand:fp32 plan:fp32 scaling:fp32",
        "rate tolerance",
        {"STOP": 1, "SHIFT": True, "BM": 32, "KP": 128},
    ),
    (
        pair_cost.pair_cost_kernel,
        "tokens:bf16 starts:i64 anchor:i64 cost:fp32",
        "spatial_weight temporal_weight",
        TILES | {"ALL": True, "BM": 128, "BN": 128, "num_warps": 8},
    ),
    (
        pair_cost.pair_cost_kernel,
        "tokens:fp32 starts:i64 anchor:i64 cost:fp32",
        "spatial_weight temporal_weight",
        TILES | {"ALL": False, "BD": 32, "PRECISION": "tf32x3"},
    ),
    (
        cover.cover_kernel,
        "cost:fp32 weight:fp32 taken:i8 free:i8 count:i64 left:fp32 tie:fp32 chosen:i8",
        "unexplained",
        {"BJ": 32, "BN": 1024, "num_warps": 16},
    ),
    (nearest.nearest_kernel, "cost:fp32 anchor:i64 filled:i8 supply:fp32 plan:fp32", "rate", {"BM": 32, "KP": 128}),
    (aggregate.aggregate_kernel, "plan:fp32 tokens:bf16 starts:i64 carried:fp32", "", TILES | {"BM": 32}),
    (novelty.length_kernel, "tokens:bf16 inverse:fp32", "", {"BP": 16, "BD": 256}),
    (novelty.mean_kernel, "tokens:bf16 inverse:fp32 mean:fp32", "", {"BP": 32, "BD": 64}),
    (
        novelty.novelty_kernel,
        "tokens:bf16 inverse:fp32 mean:fp32 change:fp32 rarity:fp32",
        "",
        {"BP": 16, "BD": 256},
    ),
    (
        chain.chain_kernel,
        "tokens:fp32 present:i8 mass:fp32 place:fp64 anchors:fp32 anchor_mass:fp32 dynamic:i8 plans:fp32",
        "rate tolerance inverse_spread threshold strength cap",
        CHAIN,
    ),
]


def main() -> None:
    for kernel, pointers, floats, constants in KERNELS:
        types = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(floats.split(), "fp32")
        types |= {name: "*" + kind for name, kind in (pair.split(":") for pair in pointers.split())}
        options = {"num_warps": constants.get("num_warps", 4)}
        constants = {name: value for name, value in constants.items() if name != "num_warps"}
        source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
        for architecture in (80, 90):
            compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
            shared, size = compiled.metadata.shared, len(compiled.asm["cubin"])
            print(json.dumps({"kernel": kernel.__name__, "sm": architecture, "shared": shared, "bytes": size}))


if __name__ == "__main__":
    main()
