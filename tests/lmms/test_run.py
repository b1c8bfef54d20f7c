"""The command behind scripts/eval_*.sh."""

import pytest

from aot_cli.main import main, make_parser
from llava.eval.evaluate import one_model
from llava.utils import shipped

MODEL = ["--name", "m", "--model", "llava_onevision_aot", "--model-path", "checkpoints/aot-tiny"]


def sweep(*options):
    words = ["eval", *MODEL, "--tasks", "aot_clips_open", "videomme", *options]
    return one_model(make_parser().parse_args(words))


def test_all_tokens_come_first_and_then_what_is_asked_for():
    made = sweep("--retention", "0.25", "0.1", "--preset", "released,num_anchors=126", "--set", "clips=dynamic")
    assert [s.name for s in made.settings] == ["all tokens", "aot, 25 %", "aot, 10 %", "released,num_anchors=126"]
    assert made.settings[0].aot is None
    assert made.settings[2].aot == {"method": "aot", "retention": 0.1, "clips": "dynamic"}
    assert made.settings[3].aot == {"preset": "released", "num_anchors": 126}
    assert [t.name for t in made.tasks] == ["aot_clips_open", "videomme"]
    tasks = shipped("lmms_eval_tasks")
    assert (tasks / "aot_clips").is_dir() and made.include_path == str(tasks)


def test_what_is_given_last_wins():
    assert sweep("--tasks", "mlvu_dev", "--retention").tasks[0].name == "mlvu_dev"
    assert sweep("--args", "max_frames_num=8").models[0].args == {"max_frames_num": 8}


@pytest.mark.parametrize("options", [["--retention", "2"], ["--set", "colour=3"], ["--preset", "best"]])
def test_bad_settings_are_refused_before_any_work(options, tmp_path, capsys):
    asked = [*MODEL, "--tasks", "aot_clips_open", "--retention", "0.1", "--output", str(tmp_path)]
    assert main(["benchmark", *asked, *options]) == 2  # as the release before called it
    said = capsys.readouterr().err
    assert "aot benchmark is now aot eval" in said and options[1].partition("=")[0] in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--args", "--set"])
def test_a_pair_needs_a_value(option, capsys):
    with pytest.raises(SystemExit):
        sweep(option, "max_frames_num")
    assert f"argument {option}: use NAME=VALUE" in capsys.readouterr().err


def test_neither_a_sweep_nor_one_model_says_what_is_missing(capsys):
    assert main(["eval", "--name", "m", "--model", "llava_vid_aot"]) == 2
    assert "--model-path is missing" in capsys.readouterr().err
