"""The Triton kernels without a GPU: their checks in triton's interpreter, and compiled for two architectures.

Each runs in a process of its own: the interpreter is chosen before triton is first imported, for a whole process.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from aot import AOTError
from aot.ops import facility_location, temporal_change, use_triton

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
# kernels whose int32 products are bounded: 128 tokens times the width, places of 4,096 tokens, one side times the rows
SMALL = {"inter_frame_kernel", "facility_location_kernel", "sinkhorn_kernel"}
MOST_SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block can have


def run(*arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON")}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@needs_triton
def test_kernels_are_right_in_the_interpreter():
    output = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "kernel_checks.py")), TRITON_INTERPRET="1"
    )
    assert " passed" in output and "failed" not in output


@needs_triton
def test_kernels_compile_for_two_architectures(tmp_path):
    output = run(str(HERE / "compile_kernels.py"), TRITON_CACHE_DIR=str(tmp_path))
    lines = [json.loads(line) for line in output.splitlines()]
    compiled = {(line["kernel"], line["sm"]) for line in lines}
    there = {
        line.split("def ")[1].split("(")[0]
        for path in (ROOT / "aot/ops/triton").glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def ") and "_kernel(" in line
    }
    assert compiled == {(name, architecture) for name in there for architecture in (80, 90)}
    for line in lines:
        assert not line["narrow_offsets"] or line["kernel"] in SMALL, f"int32 may not hold part of an address: {line}"
        assert line["shared"] <= MOST_SHARED[line["sm"]], line
        # what 128 kept tokens a frame take beyond the registers is left as it is: only presets come here
        assert line["stack"] == 0 or line["values"].get("count", 0) > 32, f"registers are spilled: {line}"
        # of rows of 126 or 100 costs Triton does not know that they lie at multiples of 16 bytes
        odd = line["kernel"] == "sinkhorn_kernel" or line["values"].get("tokens", 0) % 16
        assert line["async_copies"] or line["wide_loads"] or odd, f"narrow loads: {line}"


@pytest.mark.parametrize(("tokens", "taken"), [(2048, True), (2049, False), (4097, False)])
def test_automatic_choice_leaves_long_problems_to_the_reference(monkeypatch, tokens, taken):
    """As on a GPU of compute capability 9.0."""
    asked = []
    monkeypatch.setattr("aot.ops.common._obstacle", lambda tensors: None)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(
        sys.modules["aot.ops.facility_location"],
        "use_triton",
        lambda *arguments, **limits: asked.append(use_triton(*arguments, **limits)),
    )
    cost, weight = torch.empty(1, tokens, tokens, device="meta"), torch.empty(1, tokens, device="meta")
    free, count = weight > 0, torch.empty(1, dtype=torch.int64, device="meta")
    facility_location(cost, weight, None, free, count, max_steps=1, max_cost=2.0)
    assert asked == [taken]
    if tokens <= 4096:
        facility_location(cost, weight, None, free, count, max_steps=1, max_cost=2.0, backend="triton")
        assert asked[1]


def test_automatic_choice_takes_the_reference_without_a_gpu():
    assert not use_triton("auto", "temporal_change", torch.ones(1))


def test_an_explicit_request_that_cannot_be_met_is_refused():
    with pytest.raises(AOTError, match="triton kernel of temporal_change cannot run.*backend='auto'"):
        temporal_change(torch.ones(1, 4, 8), backend="triton")
