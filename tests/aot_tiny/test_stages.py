"""Every stage takes a step, hands over what it learnt, and goes on where it stopped."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from aot_tiny.training import recipe
from aot_tiny.training.data import FrameLabels
from aot_tiny.training.export import export
from aot_tiny.training.tokenizer import save_tokenizer
from aot_tiny.training.train import WEIGHTS, build, main, start_from
from aot_tiny.worlds import checkpoint_world

SMALL = recipe.GEOMETRY | {"num_hidden_layers": 7, "hidden_size": 24, "intermediate_size": 32}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


def train(stage, folder, tokenizer, *more, steps=1):
    shutil.copytree(tokenizer, folder / stage / "tokenizer", dirs_exist_ok=True)  # a stage makes its own if it has none
    times = steps / recipe.STAGES[stage].steps
    main(["--stage", stage, "--output", str(folder / stage), "--batch", "1", "--times", str(times), *more])
    return torch.load(folder / stage / WEIGHTS, weights_only=True)


def test_stages_hand_over_and_the_last_is_exported(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "GEOMETRY", SMALL)
    before, more = {}, ()
    for stage in recipe.STAGES:
        weights = train(stage, tmp_path, tokenizer, *more)
        log = json.loads((tmp_path / stage / "log.json").read_text())
        assert log[-1]["step"] == 1
        tower = {k: v for k, v in weights.items() if "vision_tower" in k}
        if recipe.STAGES[stage].objective != "tower":
            assert before and all(torch.equal(v, before[k]) for k, v in tower.items())  # frozen behind its own stages
        else:
            tower = {f"model.model.vision_tower.{k.removeprefix('tower.')}": v for k, v in weights.items()}
        before, more = before | tower | weights, ("--init", str(tmp_path / stage))
    export(tmp_path, tmp_path / "checkpoint")
    assert {"model.safetensors", "config.json", "tokenizer.json", "training_log.json"} <= {
        p.name for p in (tmp_path / "checkpoint").iterdir()
    }
    assert checkpoint_world(tmp_path / "checkpoint") == recipe.STAGES[stage].world == "shapes"
    objective, _, _ = build(recipe.STAGES["answers"], tokenizer)  # and a checkpoint can be trained further
    start_from(objective, tmp_path / "checkpoint", tokenizer)
    for name, weight in objective.model.state_dict().items():
        assert torch.equal(weight.half(), before[f"model.{name}"].half()), name


def test_a_stage_goes_on_from_its_last_checkpoint(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "GEOMETRY", SMALL)
    monkeypatch.setattr(FrameLabels, "__init__", functools.partialmethod(FrameLabels.__init__, frames=1))
    train("tower", tmp_path, tokenizer, steps=100)
    train("tower", tmp_path, tokenizer, steps=120)
    log = json.loads((tmp_path / "tower" / "log.json").read_text())
    assert [row["step"] for row in log if "loss" in row] == [20, 40, 60, 80, 100, 120]


def test_a_stage_that_is_stopped_while_it_writes_is_not_taken_for_finished(tokenizer, tmp_path, monkeypatch):
    """Nor are words of which only the beginning was written."""
    output, save = tmp_path / "tower", torch.save

    def stopped(value, file, **settings):
        if Path(file).parent != output:  # the folder of a step
            return save(value, file, **settings)
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "GEOMETRY", SMALL)
    monkeypatch.setattr(torch, "save", stopped)
    made = "aot_tiny.training.train.save_tokenizer"
    monkeypatch.setattr(made, lambda folder: shutil.copytree(tokenizer, folder, dirs_exist_ok=True))
    (output / "tokenizer").mkdir(parents=True)
    (output / "tokenizer" / "tokenizer.json").write_text("{")
    once = str(1 / recipe.STAGES["tower"].steps)
    assert main(["--stage", "tower", "--output", str(output), "--batch", "1", "--times", once]) == 130
    assert not (output / WEIGHTS).exists() and not (output / "log.json").exists()


def test_another_seed_draws_other_clips(tokenizer, tmp_path, monkeypatch):
    starts, made = [], FrameLabels.__init__

    def noted(self, *args, **kwargs):
        starts.append(kwargs["start"])
        made(self, *args, **kwargs)

    monkeypatch.setattr(recipe, "GEOMETRY", SMALL)
    monkeypatch.setattr(FrameLabels, "__init__", noted)
    for seed in (0, 1):
        train("tower", tmp_path / str(seed), tokenizer, "--seed", str(seed))
    assert starts == [0, 100_000]


def test_processes_share_the_clips_of_a_step(tmp_path, monkeypatch):
    output = tmp_path / "tower"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "aot_cli"]
    once = ["train-tiny", "--stage", "tower", "--times", str(1 / recipe.STAGES["tower"].steps), "--output", str(output)]
    settings = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True}
    both = subprocess.run([*launch, *once, "--batch", "2"], **settings)
    assert both.returncode == 0, both.stderr[-3000:]
    log = json.loads((output / "log.json").read_text())
    assert log[-1]["step"] == 1 and log[-1]["epoch"] == 1  # both clips were seen
    assert (output / WEIGHTS).exists()
    monkeypatch.setattr("aot_tiny.training.train.PartialState", lambda **_: SimpleNamespace(num_processes=2))
    with pytest.raises(SystemExit, match="2 processes cannot share 3 clips a step; give another --batch"):
        main([*once[:-1], str(tmp_path / "odd"), "--batch", "3"][1:])
    assert not (tmp_path / "odd").exists()


def test_the_stage_of_shapes_takes_the_words_of_its_start(tmp_path):
    with pytest.raises(SystemExit, match="name one with --init"):
        main(["--stage", "shapes", "--output", str(tmp_path / "none")])
    start, output = "checkpoints/aot-tiny", tmp_path / "run"
    fixed = ("--dtype", "float32", "--batch", "1", "--times", "0.003")
    main(["--stage", "shapes", "--init", start, "--output", str(output), *fixed])
    assert (output / "tokenizer" / "tokenizer.json").read_bytes() == Path(start, "tokenizer.json").read_bytes()
    known = load_file(f"{start}/model.safetensors")
    learnt = torch.load(output / WEIGHTS, weights_only=True)
    change = [(learnt[f"model.{name}"].float() - value.float()).abs().max() for name, value in known.items()]
    assert 0 < max(change) < 0.01  # one step of the warm-up away, the frozen tower included as it was
    # a run goes on from that one, and the mean of two lies between them
    again = tmp_path / "again"
    main(["--stage", "shapes", "--init", str(output), "--output", str(again), *fixed])
    assert (again / "tokenizer" / "tokenizer.json").exists()
    shutil.move(output, tmp_path / "shapes")
    with pytest.raises(SystemExit, match="no checkpoint of this shape"):
        export(tmp_path, tmp_path / "mean", average=tmp_path / "shapes")
    export(tmp_path, tmp_path / "mean", average=Path(start))
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    for name, value in known.items():
        expected = (value.float() + learnt[f"model.{name}"].float()) / 2
        torch.testing.assert_close(mean[name].float(), expected, rtol=1e-3, atol=1e-4)
    # the record goes on from the start's own
    before, after = (json.loads(Path(f, "training_log.json").read_text()) for f in (start, tmp_path / "mean"))
    assert list(after) == [*before, f"shapes, run {sum(stage.startswith('shapes') for stage in before) + 1}"]
