"""The Triton kernels without a GPU: their checks in triton's interpreter, and compiled for two architectures.

Each runs in a process of its own: the interpreter is chosen before triton is first imported, for a whole process.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

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
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What the two processes print, side by side."""
    checks = "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "kernel_checks.py")
    with ThreadPoolExecutor(2) as pool:
        cache = str(tmp_path_factory.mktemp("triton"))
        compiled = pool.submit(run, str(HERE / "compile_kernels.py"), TRITON_CACHE_DIR=cache)
        yield {"compiled": compiled, "checked": pool.submit(run, *checks, TRITON_INTERPRET="1")}


@needs_triton
def test_kernels_compile_for_two_architectures(processes):
    lines = [json.loads(line) for line in processes["compiled"].result().splitlines()]
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


@needs_triton
def test_kernels_are_right_in_the_interpreter(processes):
    output = processes["checked"].result()
    assert " passed" in output and "failed" not in output
