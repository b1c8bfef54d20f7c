"""Every mode takes steps, goes on where it stopped, and leaves a checkpoint that loads."""

import json
from dataclasses import replace
from importlib.util import find_spec
from statistics import fmean

import pytest
import torch

from aot import AOTConfig
from aot_cli.main import main
from aot_tiny.worlds import WORLDS
from llava.eval import provenance
from llava.eval.exam.evaluator import run_exam_sweep
from llava.eval.exam.settings import ExamSweep
from llava.model.builder import load_pretrained_model
from llava.train.exam import SEED, TrainingExam
from tests.llava.train.runs import MODES, ROOT, goes_on, losses, weights, words

EMBEDDED = ROOT / "checkpoints" / "aot-tiny"
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
EACH = [pytest.param(mode, marks=needs_peft if mode == "lora" else ()) for mode in MODES]


@goes_on
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


@goes_on
def test_a_used_folder_takes_up_its_own_run_alone(checkpoint, data, media, tmp_path, capsys):
    folder, more = tmp_path / "run", [*MODES["projector"], "--retention", "0.2"]
    assert main(words(checkpoint, data, media, folder, *more, steps=1)) == 0
    with (folder / "skipped.jsonl").open("a") as file:
        file.write('["torn", "no')  # as a kill leaves it
    for other in (["--retention", "0.5"], ["--mm_tunable_parts", "mm_vision_tower"], ["--seed", "7"]):
        assert main(words(checkpoint, data, media, folder, *more, *other, steps=2)) == 1
        told = capsys.readouterr().err
        assert f"holds a run with {other[0][2:]}" in told and "another --output_dir" in told
    assert main(words(checkpoint, data, media, folder, *more, steps=2)) == 0


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
    assert {json.loads(line)[0] for line in (tmp_path / "run" / "skipped.jsonl").open()} == {"a", "b"}
    assert main(words(checkpoint, data, media, tmp_path / "stopped", "--max_unreadable", "0.2", steps=4)) == 1
    assert "more than max_unreadable 0.2 allows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--mm_tunable_parts", "mm_resampler"], "mm_tunable_parts holds 'mm_resampler'"),
        (["--version", "vicuna"], "There is no template 'vicuna'"),
        (["--retention", "0"], "retention"),
        (["--no_such_option", "1"], "there is no option --no_such_option"),
        (["--deepspeed", ROOT / "scripts" / "zero2.json"], "leave --deepspeed out"),
    ],
)
def test_a_wrong_setting_is_one_sentence(more, told, checkpoint, data, media, tmp_path, capsys):
    assert main(words(checkpoint, data, media, tmp_path / "run", *more)) == 1
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error


@pytest.mark.parametrize("mode", EACH[1:])
def test_the_exam_is_sat_during_training_and_changes_nothing(mode, checkpoint, data, media, tmp_path):
    more = [*MODES[mode], "--retention", "0.2"]
    asked = ["--eval_strategy", "steps", "--eval_steps", "1", "--exam_questions", "8"]
    asked += ["--load_best_model_at_end", "True", "--metric_for_best_model", "eval_open"]
    assert main(words(checkpoint, data, media, tmp_path / "plain", *more)) == 0
    assert main(words(checkpoint, data, media, tmp_path / "examined", *more, *asked)) == 0
    assert losses(tmp_path / "examined") == losses(tmp_path / "plain")
    history = json.loads((tmp_path / "examined" / "trainer_state.json").read_text())["log_history"]
    told = [(row["eval_open"], row["eval_choice"]) for row in history if "eval_open" in row]
    assert len(told) == 2 and all(0 <= share <= 1 for shares in told for share in shares)


def test_the_exam_during_training_scores_as_the_exam_itself(tmp_path):
    tokenizer, model, processor, _ = load_pretrained_model(
        EMBEDDED, device_map="cpu", compression=AOTConfig(retention=0.1), overwrite_config={"mm_video_frames": 16}
    )
    exam = TrainingExam(model.train(), tokenizer, processor, folder=tmp_path, questions=16, world=WORLDS["shapes"])
    told = exam.scores()
    assert model.training
    sweep = ExamSweep("x", "x", str(EMBEDDED), settings=("aot@0.1",), questions=16, seed=SEED, captioned=0)
    assert run_exam_sweep(sweep, sweep.settings, tmp_path / "exam") == {}
    records = [json.loads(line) for file in (tmp_path / "exam").rglob("questions.jsonl") for line in file.open()]
    assert told == {form: fmean(row["score"] for row in records if row["task"] == form) for form in told}
    assert told["open"] > 0.5
    # how the model is loaded belongs to the result, which another way of loading leaves alone
    assert run_exam_sweep(replace(sweep, tower_dtype="bfloat16"), sweep.settings, tmp_path / "exam") == {}
    results = [json.loads(file.read_text()) for file in sorted((tmp_path / "exam").rglob("result.json"))]
    assert [result["header"].get("tower_dtype") for result in results] == [None, "bfloat16"]
    assert all(
        result["machine"] == f"{provenance.processor()}, cpu, {torch.get_num_threads()} thread(s)" for result in results
    )
