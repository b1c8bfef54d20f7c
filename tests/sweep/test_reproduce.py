import json

import pytest

from aot_cli.main import main, renamed
from llava.eval.embedded import embedded_checkpoint, stand_in
from llava.eval.records import read_records
from llava.eval.report import listing
from llava.eval.sweep import SWEEPS, load_sweep


@pytest.mark.parametrize("name", sorted({path.stem for path in SWEEPS.glob("*.yaml")} - {"exam", "methods"}))
def test_every_table_has_a_stand_in_that_says_so(name):
    sweep = stand_in(load_sweep(name), embedded_checkpoint(), limit=5)
    assert "embedded model aot-tiny" in sweep.note and sweep.name == f"{name}-embedded"
    assert len(sweep.models) == 1 and {task.name for task in sweep.tasks} == {
        "aot_clips_open",
        "aot_clips_choice",
    }
    for setting in sweep.settings:
        if (setting.aot or {}).get("preset") in ("released", "paper"):
            assert setting.aot["num_anchors"] <= 162  # of 576 tokens a frame, as 205 or fewer are of 729


def test_frames_are_scaled_and_named_anew():
    sweep = stand_in(load_sweep("frames"), embedded_checkpoint())
    counts = {s.args["max_frames_num"] for s in sweep.settings if s.args}
    assert counts == {8, 16, 32, 64} and any(s.name == "AOT, 64 frames, 10 %" for s in sweep.settings)


def test_unknown_tables_and_wrong_numbers(capsys):
    assert main(["eval", "main-vo", "--or-embedded"]) == 2
    assert "There is no sweep 'main-vo'" in capsys.readouterr().err
    assert main(["reproduce", "main-vid", "--machines", "2"]) == 2  # as the release before called it
    said = capsys.readouterr().err
    assert "aot reproduce is now aot eval --or-embedded" in said
    assert "--machines is now --nnodes" in said and "--master_addr" in said


@pytest.mark.parametrize(
    "typed, today",
    [
        ("benchmark --name a --processes=2", "eval --name a --nproc_per_node 2"),
        ("eval x --main-address a.b:5 --machine-rank 1", "eval x --master_addr a.b --master_port 5 --node_rank 1"),
        ("methods --retentions 0.1 --report", "exam methods --page docs/results.md --retention 0.1 --report"),
        ("exam-report --runs r --output p --seed 3", "exam --report --output r --page p --seed 3"),
        ("infer --output a:5", "infer --output a:5"),
    ],
)
def test_what_the_release_before_called_otherwise_is_told(capsys, typed, today):
    assert renamed(typed.split()) == today.split()
    said = capsys.readouterr().err.splitlines()
    assert all("is now" in line for line in said) and bool(said) == (typed != today)


def test_pages_are_listed_with_their_titles(tmp_path):
    (tmp_path / "b.md").write_text("# Second: on the embedded model\n\ntext")
    (tmp_path / "a.md").write_text("# First\n")
    (tmp_path / "a.png").write_bytes(b"")
    lines = listing(tmp_path).splitlines()
    assert f"- [First]({tmp_path.name}/a.md)" in lines and f"  ![First]({tmp_path.name}/a.png)" in lines
    assert lines[-1] == f"- [Second: on the embedded model]({tmp_path.name}/b.md)"


def test_a_table_through_lmms_eval_itself(tmp_path, monkeypatch):
    pytest.importorskip("lmms_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    words = ["eval", "iterations", "--embedded", "--limit", "2", "--settings", "no such setting", "--device", "cpu"]
    words += ["--output", str(tmp_path / "out"), "--pages", str(tmp_path / "pages")]
    assert main(words) == 0
    page = (tmp_path / "pages" / "iterations.md").read_text()
    assert page.startswith("# LLaVA-OneVision-7B") and "on the embedded model" in page.splitlines()[0]
    assert "of its rows only all tokens and no such setting" in page.splitlines()[0]
    data = json.loads((tmp_path / "out" / "iterations-embedded" / "sweep.json").read_text())
    folder = tmp_path / "out" / "iterations-embedded" / data["runs"][0]["folder"]
    questions = read_records(folder / "questions.jsonl")
    assert len(questions) == 2 and all(q.tokens["visual"] == q.tokens["visual_before"] for q in questions)
    result = json.loads((folder / "result.json").read_text())
    assert result["versions"]["lmms-eval"] and result["identity"]["task_hash"] and result["failed"] == 0
