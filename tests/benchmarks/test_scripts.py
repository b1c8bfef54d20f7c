"""The benchmarks of operations and of the whole way run, with nothing wrong, on small sizes."""

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import more_frames
from benchmarks.bench_e2e import alike
from benchmarks.measure import WrongResult, attention_ratio
from llava.model.multimodal_encoder.siglip_encoder import TowerOutput


def last_line(*arguments):
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_operations():
    result = last_line("benchmarks.bench_ops", "--device", "cpu", "--size", "small", "--repeats", "1")
    measured = {row["op"] for row in result["rows"]}
    assert measured >= {"received_attention", "pair_cost", "facility_location", "softmax_plan"}
    assert all(row["ms"] > 0 and row["error"] <= row["limit"] for row in result["rows"])
    assert result["method"][0]["kept_alike"] == 1 and result["commit"]


def test_more_frames_at_equal_tokens(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["more_frames", str(tmp_path), "--questions", "4"])
    more_frames.main()
    said = capsys.readouterr().out
    for share, tokens in (("100%", 2304), ("10%", 230)):
        assert f"--retention {share} 16 frames, {tokens} tokens" in said
        assert f"--retention {share} --num-frames auto 64 frames, {tokens} tokens" in said
        assert f"{share} open: " in said and f"{share} choice: " in said


def test_the_whole_way_and_its_plot(tmp_path):
    file, picture = tmp_path / "e2e.json", tmp_path / "growth.svg"
    result = last_line(
        *("benchmarks.bench_e2e", "--device", "cpu", "--frames", "2", "4", "--repeats", "1", "--output", str(file)),
    )
    assert len(result["rows"]) == 12 and not any("wrong" in row for row in result["rows"])
    assert result["attention"][0]["ratio"] > 0
    drawn = subprocess.run(
        [sys.executable, "-m", "benchmarks.plot_growth", str(file), "--output", str(picture)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    exponents = json.loads(drawn.stdout)
    assert "tiny, aot 10 %: tower_ms against frames" in exponents and picture.stat().st_size > 10_000
    assert any("against retention" in name for name in exponents)


def test_the_whole_way_behind_the_fast_tower():
    settings = ("aot 10 % fast tower, still", "aot 10 % fast tower, moving", "aot 10 %")
    result = last_line(
        *("benchmarks.bench_e2e", "--device", "cpu", "--frames", "8", "--repeats", "1"),
        *("--no-attention", "--settings", *settings),
    )
    still, moving, plain = result["rows"]
    assert result["attention"] == [] and still["tokens"] == moving["tokens"] == plain["tokens"]
    # a key frame of eight whole, of the seven others three rows of twelve: a changed one, part of another, a neighbour
    assert still["tower_share"] < 0.36 and moving["tower_share"] == plain["tower_share"] == 1


def test_reuse_in_a_tower_of_qwen():
    words = ("--towers", "qwen3_vl", "--layers", "1", "--pairs", "2", "--shares", "50", "--repeats", "1")
    (row,) = last_line("benchmarks.bench_qwen_reuse", *words)["qwen3_vl"]["shares"]
    assert row["flops"] == pytest.approx(2 / (1 + 9 / 16)) and 0 < row["relative_error"] < 0.1 and row["ms"] > 0


def test_without_a_gpu_its_run_is_refused_in_one_sentence(tmp_path):
    script = ["bash", "benchmarks/run_gpu.sh"]
    environment = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*script, str(tmp_path / "x.json")], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    # on a machine without triton that is what is said
    assert done.stderr.count("\n") == 1 and ("sees no CUDA device" in done.stderr or "lacks triton" in done.stderr)
    done = subprocess.run([*script, "--rehearse"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "give a file for the figures" in done.stderr


def test_tokens_alike():
    ours, theirs = torch.eye(10), torch.eye(10) * (1 + 1e-4)
    assert alike(ours, theirs) == 1 and alike(ours, theirs[torch.randperm(10)]) == 1
    assert alike(ours, theirs[:8]) == 0.8 and alike(ours[:8], theirs) == 0.8
    theirs[:3] *= 1.01
    assert alike(ours, theirs) == 0.7


class Tower(torch.nn.Module):
    """A stand-in whose features and received attention are as told."""

    image_size, num_layers, num_patches = 2, 2, 4
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, feature: float, received: float, beside: float):
        super().__init__()
        self.answers = {True: (beside, received), False: (feature, received)}

    def encode(self, pixels, received=()):
        feature, sums = self.answers[bool(received)]
        return TowerOutput(torch.full((1, 4, 3), feature), dict.fromkeys(received, torch.full((1, 4), sums)))


@pytest.mark.parametrize(
    ("tower", "what"),
    [
        (Tower(1.0, 1.01, 1.0), "received attention"),
        (Tower(1.0, torch.nan, 1.0), "received attention"),
        (Tower(1.0, 1.0, 1.0001), "features"),
        (Tower(torch.nan, 1.0, torch.nan), "features"),
    ],
)
def test_a_wrong_tower_gets_no_time(tower, what):
    with pytest.raises(WrongResult, match=what):
        attention_ratio(tower, 1, repeats=1)
    assert attention_ratio(Tower(1.0, 1.0, 1.0), 1, repeats=1)["ratio"] > 0
