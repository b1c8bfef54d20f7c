import glob
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from llava.eval.plan import make_plan
from llava.eval.records import read_records
from llava.eval.runner import Launch, command, run_sweep
from llava.eval.store import InUseError
from llava.eval.sweep import SweepError, sweep_from

# drives the sweep in a JSON file: FILE OUTPUT MODULE
DRIVER = """
import json, sys
from pathlib import Path
import light
from llava.eval.runner import Launch, run_sweep
from llava.eval.sweep import sweep_from
sweep = sweep_from(json.loads(Path(sys.argv[1]).read_text()))
summary = run_sweep(sweep, Path(sys.argv[2]), Launch(device="cpu", module=sys.argv[3]))
sys.exit(0 if summary.ok else 1)
"""


def drive(values, output, module):
    return run_sweep(sweep_from(values), output, Launch(device="cpu", module=module))


def questions(values, output):
    """All questions of all runs, times apart."""
    runs = make_plan(sweep_from(values), output)
    return [read_records(run.folder / "questions.jsonl") for run in runs]


def small(values):
    values["tasks"], values["settings"] = ["mlvu_dev"], [{"name": "a tenth", "aot": {"retention": 0.1}}]
    return values


def test_a_run_leaves_every_question_and_a_manifest(tmp_path, sweep, harness):
    summary = drive(small(sweep), tmp_path / "out", harness)
    assert summary.ok
    (found,) = questions(sweep, tmp_path / "out")
    assert [q.doc_id for q in found] == [str(i) for i in range(12)]
    assert {q.group for q in found} == {"mlvu_dev/ego", "mlvu_dev/count"}
    assert {q.target for q in found} == {"A\u2028or a\u0085"}  # which end no line
    (run,) = make_plan(sweep_from(sweep), tmp_path / "out")
    result = json.loads((run.folder / "result.json").read_text())
    assert result["identity"]["aot"]["retention"] == 0.1 and result["identity"]["checkpoint_hash"]
    assert result["versions"]["torch"] and result["hardware"]["cores"] and result["identity"]["seed"] == 0
    score = 100 * sum(q.score for q in found) / 12
    assert result["harness_scores"]["mlvu_dev"]["mlvu_percetion_score"] == pytest.approx(score)


def test_a_complete_sweep_is_not_run_again_and_another_setting_is_added(tmp_path, sweep, harness):
    drive(small(sweep), tmp_path / "out", harness)
    first = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "runs").rglob("result.json")}
    sweep["settings"] = [*sweep["settings"], {"name": "a fifth", "aot": {"retention": 0.2}}]
    drive(sweep, tmp_path / "out", harness)
    second = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "runs").rglob("result.json")}
    assert len(second) == 2 and first.items() <= second.items()


def test_a_cache_is_handed_to_wrappers_that_have_one(tmp_path, sweep):
    (run,) = make_plan(sweep_from(small(sweep)), tmp_path)
    words = command(run, Launch(cache=tmp_path / "kept", cache_gb=2.5), tmp_path)
    assert f",cache={tmp_path / 'kept'},cache_gb=2.5" in words[words.index("--model_args") + 1]
    assert "cache=" not in " ".join(command(run, Launch(), tmp_path))
    sweep["models"][0]["id"] = "qwen3_vl_aot"
    (run,) = make_plan(sweep_from(sweep), tmp_path)
    with pytest.raises(
        SweepError, match="--cache is for llava_onevision_aot and llava_vid_aot; model 'M' runs as qwen3"
    ):
        command(run, Launch(cache=tmp_path), tmp_path)


def test_other_weights_are_another_run(tmp_path, sweep, harness, checkpoint):
    (before,) = make_plan(sweep_from(small(sweep)), tmp_path)
    (checkpoint / "model.safetensors").write_bytes(b"retrained")
    (after,) = make_plan(sweep_from(sweep), tmp_path)
    assert before.folder != after.folder
    (tmp_path / "hashes.json").write_text("{")  # damaged, so made anew
    (again,) = make_plan(sweep_from(sweep), tmp_path)
    assert again.folder == after.folder


def test_a_failed_question_is_counted_wrong_named_and_asked_again(tmp_path, sweep, harness):
    small(sweep)["models"][0]["args"] = {"broken": "3+5"}
    summary = drive(sweep, tmp_path / "out", harness)
    assert not summary.ok and list(summary.failed.values()) == [2]
    (found,) = questions(sweep, tmp_path / "out")
    failed = [q for q in found if q.failure]
    assert [q.doc_id for q in failed] == ["3", "5"]
    assert all(q.score == 0 and q.reply is None and "cut short" in q.failure for q in failed)
    (run,) = make_plan(sweep_from(sweep), tmp_path / "out")
    assert not drive(sweep, tmp_path / "out", harness).ok
    lines = [line for path in run.store.glob("answers-*.jsonl") for line in path.read_text().splitlines()]
    records = [json.loads(line)["record"] for line in lines]
    assert sum(bool(record) and record["failure"] is not None for record in records) == 4  # two, asked twice
    assert sum(bool(record) and record["failure"] is None for record in records) == 10  # the others once


@pytest.mark.parametrize("fault, words", [("crash", "the model broke"), ("lose", "no results file")])
def test_a_run_that_breaks_is_named_and_the_others_go_on(tmp_path, sweep, harness, fault, words):
    sweep["settings"] = sweep["settings"][1:]
    sweep["models"][0]["args"] = {fault: "mlvu_dev"}
    summary = drive(sweep, tmp_path / "out", harness)
    assert list(summary.broken) == ["M, a tenth, mlvu_dev"] and words in summary.broken["M, a tenth, mlvu_dev"]
    assert (make_plan(sweep_from(sweep), tmp_path / "out")[1].folder / "result.json").is_file()


def is_open(path):
    """Whether a process has the file open."""
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        with suppress(OSError):  # of a process that is gone, or another's
            if os.readlink(link) == str(path.resolve()):
                return True
    return False


def test_kill_at_a_random_moment_and_restart_gives_the_same(tmp_path, sweep, harness):
    sweep["models"][0]["args"] = {"pause": 0.1}
    sweep["tasks"] = ["mlvu_dev"]
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    drive(sweep, tmp_path / "calm", harness)
    words = [sys.executable, "-c", DRIVER, str(tmp_path / "sweep.json"), str(tmp_path / "out"), harness]
    process = subprocess.Popen(words)
    store = make_plan(sweep_from(sweep), tmp_path / "out")[0].store
    while not any(path.stat().st_size for path in store.glob("answers-*.jsonl")):  # it is in the middle of a task
        time.sleep(0.02)
        assert process.poll() is None
    time.sleep(random.random() * 0.4)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ended = time.monotonic() + 60
    while any(map(is_open, store.glob("answers-*.jsonl"))):  # what it had started ends with it
        assert time.monotonic() < ended
        time.sleep(0.1)
    runs = make_plan(sweep_from(sweep), tmp_path / "out")
    assert not all((run.folder / "result.json").exists() for run in runs)
    assert subprocess.run(words, timeout=900).returncode == 0
    assert questions(sweep, tmp_path / "out") == questions(sweep, tmp_path / "calm")


def test_two_sweeps_do_not_work_in_one_folder(tmp_path, sweep, harness):
    small(sweep)["models"][0]["args"] = {"pause": 0.2}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    words = [sys.executable, "-c", DRIVER, str(tmp_path / "sweep.json"), str(tmp_path / "out"), harness]
    process = subprocess.Popen(words)
    try:
        while not list((tmp_path / "out").rglob("log.txt")):
            time.sleep(0.05)
            assert process.poll() is None
        with pytest.raises(InUseError, match="Another process"):
            drive(sweep, tmp_path / "out", harness)
    finally:
        process.kill()
        process.wait()
