"""Every mode takes steps, goes on where it stopped, and leaves a checkpoint that loads."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from aot_cli.main import main
from llava.model.builder import load_pretrained_model

ROOT = Path(__file__).parents[3]
MODES = {
    "projector": ["--mm_tunable_parts", "mm_mlp_adapter"],
    "full": ["--mm_tunable_parts", "mm_vision_tower,mm_mlp_adapter,mm_language_model"],
    "lora": ["--lora_enable", "True", "--lora_r", "4", "--mm_tunable_parts", "mm_mlp_adapter"],
}
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
EACH = [pytest.param(mode, marks=needs_peft if mode == "lora" else ()) for mode in MODES]


def words(checkpoint, data, media, folder, *more, steps=2, batch=2):
    settings = {
        "model_name_or_path": checkpoint,
        "data_path": data,
        "image_folder": media,
        "video_folder": media,
        "frames_upbound": 4,
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "lr_scheduler_type": "constant",
        "attn_implementation": "sdpa",
        "disable_tqdm": True,
    }
    given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["train", *given, *map(str, more)]


def losses(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    return [row["loss"] for row in state["log_history"] if "loss" in row]


def weights(folder, base=None):
    _, model, _, _ = load_pretrained_model(folder, base, "any", device_map="cpu", torch_dtype="float32")
    return model.state_dict()


@pytest.mark.parametrize("mode", EACH)
def test_a_run_that_is_taken_up_again_equals_one_that_never_stopped(mode, checkpoint, data, media, tmp_path):
    more = [*MODES[mode], "--retention", "0.2", "0.6"]
    assert main(words(checkpoint, data, media, tmp_path / "whole", *more, steps=2)) == 0
    assert main(words(checkpoint, data, media, tmp_path / "parts", *more, steps=1)) == 0
    assert main(words(checkpoint, data, media, tmp_path / "parts", *more, steps=2)) == 0
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    base = checkpoint if mode == "lora" else None
    start, whole, parts = weights(checkpoint), weights(tmp_path / "whole", base), weights(tmp_path / "parts", base)
    changed = {name for name in start if not torch.equal(start[name], whole[name])}
    assert any("mm_projector" in name for name in changed)
    assert any("vision_tower" in name for name in changed) == (mode == "full")
    assert any(name.startswith("model.layers.0.mlp") for name in changed) == (mode != "projector")
    for name in start:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5)


def test_two_ranks_learn_what_one_process_learns(checkpoint, data, media, tmp_path):
    assert main(words(checkpoint, data, media, tmp_path / "one", "--retention", "0.3", batch=2)) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"]
    more = words(checkpoint, data, media, tmp_path / "two", "--retention", "0.3", "--ddp_backend", "gloo", batch=1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*launch, "-m", "llava.train.train", *more[1:]], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@needs_peft
def test_adapters_can_be_merged(checkpoint, data, media, tmp_path):
    more = [*MODES["lora"], "--lora_dropout", "0"]
    assert main(words(checkpoint, data, media, tmp_path / "adapter", *more, steps=1)) == 0
    assert main(words(checkpoint, data, media, tmp_path / "merged", *more, "--lora_merge", "True", steps=1)) == 0
    adapter, merged = weights(tmp_path / "adapter", checkpoint), weights(tmp_path / "merged")
    for name in adapter:
        torch.testing.assert_close(merged[name], adapter[name], rtol=1e-4, atol=1e-6)


def test_parts_learn_at_rates_of_their_own(checkpoint, data, media, tmp_path):
    more = ["--mm_projector_lr", "0", "--mm_vision_tower_lr", "1e-30", "--group_by_modality_length", "True"]
    assert main(words(checkpoint, data, media, tmp_path / "run", *more, *MODES["full"], steps=1)) == 0
    start, end = weights(checkpoint), weights(tmp_path / "run")
    still = [name for name in start if "vision_tower" in name]
    assert all(torch.allclose(start[name], end[name]) for name in still)
    assert not torch.equal(start["model.layers.0.mlp.up_proj.weight"], end["model.layers.0.mlp.up_proj.weight"])


def test_unreadable_samples_are_named_and_too_many_end_the_run(checkpoint, data, media, tmp_path, capsys):
    samples = json.loads(data.read_text())
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    samples[0]["video"], samples[1]["image"] = str(tmp_path / "broken.mp4"), "missing.png"
    data.write_text(json.dumps(samples))
    assert main(words(checkpoint, data, media, tmp_path / "run", "--max_unreadable", "0.3", steps=4)) == 0
    told = capsys.readouterr().err
    assert "2 of 8 samples could not be read" in told and "a: " in told and "b: " in told
    assert set(json.loads((tmp_path / "run" / "skipped.json").read_text())) == {"a", "b"}
    assert main(words(checkpoint, data, media, tmp_path / "stopped", "--max_unreadable", "0.2", steps=4)) == 1
    assert "more than max_unreadable 0.2 allows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--mm_tunable_parts", "mm_resampler"], "mm_tunable_parts holds 'mm_resampler'"),
        (["--version", "vicuna"], "There is no template 'vicuna'"),
        (["--retention", "0"], "retention"),
        (["--no_such_option", "1"], "there is no option --no_such_option"),
    ],
)
def test_a_wrong_setting_is_one_sentence(more, told, checkpoint, data, media, tmp_path, capsys):
    assert main(words(checkpoint, data, media, tmp_path / "run", *more)) == 1
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error
