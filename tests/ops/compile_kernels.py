"""Compiles every kernel for sm_80 and sm_90 without a GPU and prints one JSON line each; test_kernels.py runs it.

Arguments are those of 32 frames of a 7B model at 10 %, specialised as a launch would: an integer that 16 divides is
known to be so, and pointers are aligned. "registers" and "stack" (bytes that a thread spills) are what ptxas says of
the binary; "async_copies" counts loads that are on their way while others are computed with, "wide_loads" those of 16
bytes.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from aot.ops.triton import (
    aggregate,
    inter_frame,
    pair_cost,
    received_attention,
    sinkhorn,
    softmax_plan,
    temporal_change,
)
from aot.ops.triton import facility_location as choice

TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"
STRIDES = {"batch": 729 * 1152, "head": 72, "row": 1152}
ATTENTION = {"scale": 0.17, "heads": 16, "queries": 729, "keys": 729}
ATTENTION |= {f"{tensor}_{name}": stride for tensor in "qk" for name, stride in STRIDES.items()}
HEAD = {"D": 72, "MAIN": 64, "REST": 16, "ALIGN": 8, "BM": 128, "BN": 64, "PRECISION": "tf32"}
TILES = {"BM": 128, "BN": 128, "BD": 64, "PRECISION": "tf32"}
PAIRS = {"frames": 32, "suppliers": 784, "anchors": 784, "dim": 3584, "height": 14, "width": 14}
PAIRS |= {"spatial_weight": 0.25, "temporal_weight": 0.2}
VIDEO = {"frames": 32, "per_frame": 196, "suppliers": 784, "anchors": 79, "dim": 3584}
CHOICE = "cost:fp32 weight:fp32 candidates:i8 count:i64 start_cost:fp32 tie_break:fp32 chosen:i8"


def tiles_and_warps(tokens: int, stride: int) -> tuple[dict, int]:
    constants = choice.tiles(tokens, stride)
    return constants, constants.pop("num_warps")


INTER = "tokens:fp32 present:i8 mass:fp32 place:fp64 anchors:fp32 anchor_mass:fp32 dynamic:i8 plans:fp32"
INTER_VALUES = {"clips": 8, "length": 4, "dim": 3584, "rate": 14.4, "iterations": 100, "tolerance": 1e-3}
INTER_VALUES |= {"inverse_spread": 0.22, "threshold": 0.5, "strength": 1.0, "cap": 1.0}
INTER_RULE = {"STOP": 1, "QUANTILE": True, "BD": 32}
# kernel, pointers with their types, other arguments, constants, warps, stages unless 3
KERNELS = [
    (received_attention.lse_kernel, "q:bf16 k:bf16 lse:fp32", ATTENTION, HEAD, 4),
    (
        received_attention.column_sum_kernel,
        "q:bf16 k:bf16 lse:fp32 received:fp32",
        ATTENTION | {"lse_batch": 729 * 16, "lse_head": 729},
        HEAD,
        4,
    ),
    (
        sinkhorn.sinkhorn_kernel,
        "cost:fp32 supply:fp32 demand:fp32 plan:fp32 scaling:fp32",
        {"rows": 729, "columns": 126, "rate": 14.4, "iterations": 100, "tolerance": 1e-3}
        | {"cost_batch": 729 * 126, "cost_row": 126, "supply_batch": 729, "demand_batch": 126},
        {"STOP": 1, "SHIFT": True, "BM": 32, "KP": 128},
        8,
    ),
    (
        pair_cost.pair_cost_kernel,
        "tokens:bf16 starts:i64 anchor:i64 cost:fp32",
        PAIRS,
        TILES | {"ALL": True},
        8,
    ),
    (
        pair_cost.pair_cost_kernel,
        "tokens:fp32 starts:i64 anchor:i64 cost:fp32",
        PAIRS | {"suppliers": 729, "anchors": 126},
        {"BM": 64, "BN": 64, "BD": 32, "PRECISION": "tf32x3", "ALL": False},
        4,
    ),
    (
        choice.facility_location_kernel,
        CHOICE,
        {"tokens": 784, "max_steps": 43, "stride": 8},
        *tiles_and_warps(784, 8),
    ),
    (
        choice.facility_location_kernel,
        CHOICE,
        {"tokens": 100, "max_steps": 4, "stride": 1},
        *tiles_and_warps(100, 1),
    ),  # windows
    (
        softmax_plan.softmax_plan_kernel,
        "cost:fp32 anchor:i64 valid_anchor:i8 supply:fp32 plan:fp32",
        {"suppliers": 784, "columns": 784, "anchors": 79, "rate": 144.0},
        {"BM": 32, "KP": 128},
        4,
    ),
    (
        aggregate.aggregate_kernel,
        "plan:fp32 tokens:bf16 starts:i64 carried:fp32",
        VIDEO,
        {"BM": 32, "BN": 64, "BD": 64, "PRECISION": "tf32"},
        4,
    ),
    (
        temporal_change.length_kernel,
        "tokens:bf16 inverse:fp32",
        {"rows": 196, "dim": 3584, "token_stride": 3584},
        {"BP": 16, "BD": 256},
        4,
    ),
    (
        temporal_change.mean_kernel,
        "tokens:bf16 inverse:fp32 mean:fp32",
        {"rows": 196, "dim": 3584, "token_stride": 3584},
        {"BP": 32, "BD": 64},
        4,
    ),
    (
        temporal_change.temporal_change_kernel,
        "tokens:bf16 before:fp32 change:fp32",
        {"per_frame": 196, "dim": 3584, "token_stride": 3584, "before_stride": 0},
        {"BP": 16, "BD": 256},
        4,
    ),
    *(
        (
            inter_frame.inter_frame_kernel,
            INTER,
            INTER_VALUES | {"count": count},
            INTER_RULE | {"KP": padded},
            *rest,
        )
        for count, padded, *rest in ((32, 32, 4, 3), (128, 128, 8, 1))
    ),
]


def specialised(kernel, pointers: str, values: dict, constants: dict) -> ASTSource:
    """The source that a launch with these arguments would compile."""
    types = {name: "*" + kind for name, kind in (pair.split(":") for pair in pointers.split())}
    types |= {name: "fp32" if isinstance(value, float) else "i32" for name, value in values.items()}
    types |= dict.fromkeys(constants, "constexpr")
    assert set(types) == set(kernel.arg_names), set(types) ^ set(kernel.arg_names)
    aligned = [name for name, kind in types.items() if kind[0] == "*"]
    varying = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    aligned += [
        name for name, value in values.items() if isinstance(value, int) and value % 16 == 0 and name not in varying
    ]
    hints = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    return ASTSource(kernel, types, constants, hints)


def narrow_offsets(ttir: str) -> list[str]:
    """Additions to pointers whose offset has a product of two int32 arguments or indices in it.

    A factor that is a constant is the size of a tile, which a few blocks of a thread count at most.
    """
    made = dict(re.findall(r"^\s*(%[\w#:]+) = (.*)$", ttir, flags=re.M))
    constants = {name for name, text in made.items() if text.startswith("arith.constant")}

    def grows(name: str, seen: set[str]) -> bool:
        text = made.get(name, "")
        if name in seen or "i64" in text.rsplit(":", 1)[-1].split("->")[-1]:
            return False
        seen.add(name)
        parts = re.findall(r"%[\w#]+", text)
        if text.startswith("arith.muli") and not constants & set(parts):
            return True
        return text.startswith(("arith.", "tt.splat", "tt.broadcast", "tt.expand_dims")) and any(
            grows(part, seen) for part in parts if not text.startswith(("arith.cmpi", "arith.select"))
        )

    additions = [text for text in made.values() if text.startswith("tt.addptr")]
    return [text for text in additions if grows(re.findall(r"%[\w#]+", text)[1], set())]


def usage(binary: bytes) -> dict:
    """Registers and stack bytes of each thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary)
        said = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout + said.stderr).groups()
    return {"registers": int(registers), "stack": int(stack)}


def main() -> None:
    for kernel, pointers, values, constants, warps, *stages in KERNELS:
        options = {"num_warps": warps, "num_stages": stages[0] if stages else 3}
        source = specialised(kernel, pointers, values, constants)
        for architecture in (80, 90):
            compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
            line = {"kernel": kernel.__name__, "sm": architecture, "values": values}
            line["shared"] = compiled.metadata.shared
            line["narrow_offsets"] = narrow_offsets(compiled.asm["ttir"])
            line |= usage(compiled.asm["cubin"])
            line["async_copies"] = compiled.asm["ttgir"].count("async_copy_global_to_local")
            line["wide_loads"] = len(re.findall(r"ld\.global[.\w]*\.v[48]\.", compiled.asm["ptx"]))
            print(json.dumps(line))


if __name__ == "__main__":
    main()
