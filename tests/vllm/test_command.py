"""The command that starts vLLM, without vLLM."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from aot.vllm import ARCHITECTURE, ARCHITECTURES
from aot_cli.main import make_parser
from llava.serve.vllm import main, vllm_command

VISION = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
TEXT = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


def checkpoint(folder, settings):
    """A folder with these settings and weights that nobody reads here."""
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def model(tmp_path) -> str:
    vision = {**VISION, "num_attention_heads": 4, "image_size": 96, "patch_size": 8}
    settings = {"model_type": "llava_onevision", "vision_config": vision, "text_config": TEXT, "mm_video_frames": 16}
    return str(checkpoint(tmp_path, settings))


def command(model, *arguments):
    options = make_parser().parse_args(["serve", model, *arguments])
    return vllm_command(options, options.rest)


def value(line: list[str], name: str):
    return json.loads(line[line.index(name) + 1])


def test_settings_reach_vllm(model):
    line = command(model, "--retention", "0.2", "--set", "newlines=none", "--data-parallel", "2", "--port", "8001")
    overrides = value(line, "--hf-overrides")
    assert overrides["architectures"] == [ARCHITECTURE]
    assert (overrides["aot"]["retention"], overrides["aot"]["newlines"]) == (0.2, "none")
    assert value(line, "--media-io-kwargs") == {"video": {"num_frames": 16}}
    assert value(line, "--data-parallel-size") == 2 and line[-2:] == ["--port", "8001"]


@pytest.mark.parametrize("arguments", [["--retention", "1"], ["--no-aot"]])
def test_no_compression(model, arguments):
    assert value(command(model, *arguments), "--hf-overrides")["aot"] is None


def test_frames(model):
    line = command(model, "--frames", "48")
    assert value(line, "--hf-overrides")["mm_video_frames"] == 48
    assert value(line, "--media-io-kwargs") == {"video": {"num_frames": 48}}


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES.keys() - {"llava_onevision"}))
def test_qwen(tmp_path, kind):
    line = command(str(checkpoint(tmp_path, {"model_type": kind})), "--retention", "0.1")
    overrides = value(line, "--hf-overrides")
    assert overrides["architectures"] == [ARCHITECTURES[kind][0]] and overrides["aot"]["retention"] == 0.1
    assert value(line, "--media-io-kwargs") == {"video": {"num_frames": 32}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--retention", "1.5"], "retention is 1.5"),
        (["--set", "method=fastv"], "inside the language model"),
        (["--set", "nonsense=1"], "Unknown setting nonsense"),
        (["--frames", "0"], "mm_video_frames"),
    ],
)
def test_refusals_are_one_sentence(model, arguments, said, capsys, monkeypatch):
    monkeypatch.setattr("os.execv", lambda *command: pytest.fail(f"started {command}"))
    assert main([model, *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_command_becomes_vllm(model, monkeypatch):
    started = []
    monkeypatch.setattr("os.execv", lambda *command: started.append(command))
    main([model, "--retention", "0.1", "--port", "8001"])
    assert started == [(sys.executable, command(model, "--retention", "0.1", "--port", "8001"))]


def test_a_checkpoint_of_another_kind(tmp_path, capsys):
    assert main([str(checkpoint(tmp_path, {"model_type": "llava_qwen"}))]) == 2
    assert "aot convert" in capsys.readouterr().err
