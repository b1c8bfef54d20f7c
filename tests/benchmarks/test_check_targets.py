"""The table of targets for a GPU, from a result as run_gpu.sh leaves it."""

import copy
import json
import subprocess
import sys

import pytest

from benchmarks.check_targets import TARGETS


def row(setting, **milliseconds):
    return {"shape": "7b", "frames": 32, "setting": setting, **{f"{name}_ms": v for name, v in milliseconds.items()}}


RESULT = {
    "kernel_tests": "41 passed, 2 skipped in 50.00s",
    "ops": {
        "rows": [{"backend": "triton", "error": 3e-3, "plain_error": 2e-3}, {"backend": "triton", "error": 9.0}],
        "method": [{"auto_ms": 0.9}],
        "device": "a GPU",
    },
    "tower_modes": {"rows": []},
    "e2e": {
        "device": "a GPU",
        "attention": [{"shape": "7b", "ratio": 1.02}],
        "rows": [
            row("aot 10 %", tower=50.0, method=0.9, first_token=60.0),
            row("released plain", method=90.0),
            row("uncompressed", first_token=180.0),
            row("uncompressed eager", first_token=240.0),
        ],
    },
}


def run(tmp_path, result, *options):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(result))
    command = [sys.executable, "-m", "benchmarks.check_targets", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout


def test_all_targets_met(tmp_path):
    code, said = run(tmp_path, RESULT)
    assert code == 0 and said.count("| met |") == len(TARGETS)
    assert "| method, share of the tower's time | 1.8 % | ≤ 3 % | met |" in said
    assert "| straightforward version over ours | 100× | ≥ 50× | met |" in said
    assert "| error of a bfloat16 kernel over plain bfloat16 | 1.5× | ≤ 2× | met |" in said


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda r: r["e2e"]["rows"][0].update(method_ms=1.6), "| method | 1.6 ms | ≤ 1 ms | missed |"),
        (lambda r: r["e2e"]["rows"].pop(1), "released plain was not measured"),
        (lambda r: r["e2e"]["attention"][0].update(ratio=1.07), "| 7 % | ≤ 5 % | missed |"),
        (lambda r: r["ops"]["method"][0].update(wrong="x"), "| rows with a wrong result | 1 | ≤ 0 | missed |"),
        (lambda r: r.update(kernel_tests="1 failed, 40 passed"), "| kernel tests that failed | 1 | ≤ 0 | missed |"),
        (lambda r: r.update(kernel_tests=None), "they did not run"),
        (lambda r: r.update(e2e=None), "e2e was not measured"),
    ],
)
def test_what_is_missed_or_missing_is_said(tmp_path, change, line):
    result = copy.deepcopy(RESULT)
    change(result)
    code, said = run(tmp_path, result)
    assert code == 1 and line in said


def test_a_rehearsal_is_judged_by_its_steps_alone(tmp_path):
    result = copy.deepcopy(RESULT)
    result["e2e"]["rows"] = []
    code, said = run(tmp_path, result, "--rehearsal")
    assert code == 0 and said.startswith("rehearsal, a GPU") and "missing" not in said
    result["tower_modes"] = None
    code, said = run(tmp_path, result, "--rehearsal")
    assert code == 1 and "| steps that left nothing | 1 | ≤ 0 | missed |" in said


@pytest.mark.parametrize("text", [None, "no JSON"])
def test_a_file_that_is_no_result_is_told_in_one_sentence(tmp_path, text):
    file = tmp_path / "other.json"
    if text:
        file.write_text(text)
    done = subprocess.run([sys.executable, "-m", "benchmarks.check_targets", str(file)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "give the file that it wrote" in done.stderr
