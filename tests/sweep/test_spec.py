from datetime import date
from pathlib import Path

import pytest
import yaml

from aot_cli.main import main as command_main
from llava.eval.evaluate import main
from llava.eval.plan import check_installed, make_plan
from llava.eval.runner import Launch, command
from llava.eval.sweep import SWEEPS, SweepError, check_published, load_sweep, published, sweep_from

NAMES = {
    "main-ov", "main-video", "components", "aggregation", "random-anchors", "clips", "iterations", "frames", "mlvu",
}  # fmt: skip


def test_the_tables_of_the_project_are_sound_sweeps():
    assert {path.stem for path in SWEEPS.glob("*.yaml")} == NAMES | {"tiny", "exam", "methods"}
    for name in NAMES:
        sweep = load_sweep(name)
        check_published(sweep)
        assert sweep.table == name and any(s.aot is None for s in sweep.settings)


def test_the_sweep_for_any_machine_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep("tiny")
    assert (Path(sweep.models[0].checkpoint) / "config.json").is_file()
    assert (Path(sweep.include_path) / "aot_clips").is_dir()
    assert load_sweep("main-ov").models[0].checkpoint == "lmms-lab/llava-onevision-qwen2-7b-ov"


def test_every_published_row_names_a_source():
    for model in published()["models"].values():
        for rows in model["sections"].values():
            assert all(row["source"] in published()["sources"] for row in rows.values())


def change(values, *path, to):
    *way, last = path
    for key in way:
        values = values[key]
    values[last] = to


@pytest.mark.parametrize(
    "path, value, words",
    [
        (("colour",), "red", "Unknown key colour in the sweep"),
        (("models", 0, "colour"), "red", r"Unknown key colour in model 1 \(M\)"),
        (("settings", 1, "retention"), 0.1, r"Unknown key retention in setting 2 \(a tenth\)"),
        (("settings", 1, "aot"), {"retentoin": 0.1}, "Unknown setting retentoin"),
        (("settings", 1, "aot"), {"retention": 1.5}, "retention"),
        (("settings", 1, "aot"), {"method": "magic"}, "magic"),
        (("settings", 1, "aot"), {"preset": "magic"}, "magic"),
        (("settings", 1, "aot"), 3, "must be a mapping"),
        (("settings", 1, "per_task"), {"nothing": {}}, "under per_task, which is no task"),
        (("settings", 1, "name"), "all tokens", "Two settings are named"),
        (("models", 0, "id"), "llava_onevision", "cannot compress"),
        (("models", 0, "checkpoint"), None, "needs a text for checkpoint"),
        (("models",), [], "needs a list of models"),
        (("tasks",), "videomme", "needs a list of tasks"),
        (("limit",), 0, "limit is 0"),
        (("seed",), -1, "seed is -1"),
        (("name",), "../../x", "no slash or leading dot"),
        (("name",), "/tmp/x", "no slash"),
        (("name",), "..", "leading dot"),
        (("name",), "a\0b", "names a folder"),
        (("name",), "a" * 300, "at most 100"),
        (("tasks", 0), "../../x", "name of a task"),
        (("title",), ["x"], "needs a text for title"),
        (("include_path",), "a\0b", "no path"),
        (("models", 0, "checkpoint"), "x" * 5000, "no path"),
        (("models", 0, "args"), {"store": "../../x"}, "name store"),
        (("settings", 1, "args"), {"pretrained": "x"}, "name pretrained"),
        (("settings", 1, "args"), {1: 2}, "is no name"),
        (("settings", 1, "args"), {"x": float("nan")}, "no text and no number"),
        (("settings", 1, "args"), {"x": [date(2026, 1, 2)]}, "no text and no number"),
        (("settings", 1, "per_task"), {"other": 3}, "must be a mapping"),
        (("settings", 1, "published"), [1, 2], "as text"),
        (("tasks", 0), {"name": "t", "published": 3}, "write it as text"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(sweep, path, value, words):
    change(sweep, *path, to=value)
    with pytest.raises(SweepError, match=words) as caught:
        sweep_from(sweep)
    assert "\n" not in str(caught.value)


def test_unknown_published_values_are_refused(sweep):
    sweep["models"][0]["published"] = "llava-onevision-7b"
    sweep["settings"][1]["published"] = ["10%", "Magic"]
    with pytest.raises(SweepError, match="no published 'Magic'"):
        check_published(sweep_from(sweep))


@pytest.mark.parametrize("text", ["models: [", "- 1\n- 2", "", "\x00"])
def test_files_that_are_no_sweep(tmp_path, text, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert main([str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("aot eval: ") and said.count("\n") == 1


ROWS = "models: [{name: M, id: llava_onevision_aot, checkpoint: c}]\ntasks: [t]\n"
TEN = "".join(f"- &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    "text, words",
    [
        (f"- &a0 [1, 2]\n{TEN}", "aliases"),
        (f"x:\n- &a0 [1, 2]\n{TEN}{ROWS}settings: [{{name: s, args: {{x: *a29}}}}]\n", "aliases"),
        ("&a [*a]", "aliases"),
        (ROWS + "settings:\n- {name: s, args: &a {x: *a}}\n", "aliases"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        (ROWS + "settings: [{name: s, args: {x: 2026-13-01}}]", "no valid YAML"),
        (f"{ROWS}settings: [{{name: s, aot: {{retention: {[1] * 9000}}}}}]", "retention"),
    ],
)
def test_a_yaml_that_stands_for_too_much_ends_in_one_sentence(tmp_path, text, words, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert main([str(path), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and len(said) < 1000


def test_aliases_that_stand_for_little_are_taken(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        ROWS + "settings:\n- &s {name: s, args: &a {x: 1}}\n- {<<: *s, name: r, args: *a}\n", encoding="utf-8-sig"
    )
    assert [s.args for s in load_sweep(path).settings] == [{"x": 1}, {"x": 1}]


@pytest.mark.parametrize(
    "text, words",
    [
        ("exam: {questions: 0}", "questions is 0"),
        ("exam: {seed: x}", "seed is 'x'"),
        ("exam: 3", "exam must be a mapping"),
        ("exam: {colour: red}", "Unknown key colour"),
        ("exam: {}\nretentions: [10]", "10 is no share"),
        ("exam: {}\nsettings: [1]", "put it in quotes"),
        ("exam: {}\nsettings: 1", "wrong kind"),
        ("exam: {}\nablations: [x]", "wrong kind"),
        ("exam: {quantization: 2bit}", "'2bit' is none of 8bit, 4bit, int8"),
        ("exam: {tower_dtype: [1]}", "tower_dtype of the sweep"),
        ("exam: {world: mars}\nsettings: [full]", "no world 'mars'"),
        ("exam: {}\nsettings: [full]", "no checkpoint in nowhere"),
        (ROWS + "settings: [{name: s}]", "use aot eval"),
    ],
)
def test_a_sweep_of_the_exam_that_is_wrong_is_told_in_one_sentence(tmp_path, text, words, capsys):
    path = tmp_path / "e.yaml"
    path.write_text(text + ("" if "models" in text else "\ncheckpoint: nowhere\n"))
    assert command_main(["exam", str(path), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_unknown_name_tells_the_known_ones(capsys):
    assert main(["main-vo"]) == 2
    assert "main-ov" in capsys.readouterr().err


def test_what_is_missing_is_told_before_any_work(tmp_path, sweep, capsys, harness):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(sweep))
    with pytest.raises(SweepError, match="lmms-eval is not installed"):
        check_installed(sweep_from(sweep), "no_such_harness")
    with pytest.raises(SweepError, match="no folder of tasks"):
        check_installed(sweep_from({**sweep, "include_path": "nowhere"}), harness)
    sweep["models"][0]["checkpoint"] = str(tmp_path / "nowhere")
    with pytest.raises(SweepError, match="nowhere"):
        check_installed(sweep_from(sweep), harness)


def test_the_command_of_lmms_eval(tmp_path, sweep):
    sweep["settings"][1] = {
        "name": "r", "aot": {"method": "random", "retention": 0.1, "options": {"seed": 2}},
        "args": {"max_frames_num": 8}, "per_task": {"other": {"retention": 0.2}},
    }  # fmt: skip
    runs = make_plan(sweep_from(sweep), tmp_path)
    words = command(runs[1], Launch(device="cpu"), tmp_path / "a")
    given = words[words.index("--model_args") + 1]
    assert 'method=random,retention=0.1,options={"seed":2},store=' in given
    assert "device_map=auto" in given and "max_frames_num=8" in given
    assert words[words.index("--verbosity") + 1] == "DEBUG"
    assert "retention=1," in command(runs[0], Launch(), tmp_path)[words.index("--model_args") + 1]
    assert "retention=0.2" in " ".join(command(runs[3], Launch(), tmp_path))


def test_several_processes_and_machines(tmp_path, sweep):
    run = make_plan(sweep_from(sweep), tmp_path)[0]
    words = " ".join(command(run, Launch(nproc_per_node=8), tmp_path))
    assert "torch.distributed.run --nproc_per_node 8 --standalone -m lmms_eval" in words
    several = Launch(nproc_per_node=8, nnodes=2, node_rank=1, master_addr="10.0.0.1")
    words = " ".join(command(run, several, tmp_path))
    assert "--nnodes 2 --node_rank 1 --master_addr 10.0.0.1 --master_port 29500" in words
    several = Launch(nproc_per_node=8, nnodes=2, master_addr="10.0.0.1", launcher="accelerate")
    words = " ".join(command(run, several, tmp_path))
    assert "--num_processes 16 --num_machines 2 --machine_rank 0 --main_process_ip 10.0.0.1" in words


@pytest.mark.parametrize(
    "wrong",
    [
        {"nproc_per_node": 0},
        {"nnodes": 2},
        {"nnodes": 2, "node_rank": 2, "master_addr": "a"},
        {"launcher": "mpirun"},
        {"launcher": "accelerate", "device": "cpu", "nproc_per_node": 2},
    ],
)
def test_launches_that_cannot_be(wrong):
    with pytest.raises(SweepError):
        Launch(**wrong)


def test_a_path_that_lmms_eval_would_cut_is_refused(tmp_path, sweep):
    sweep["models"][0]["checkpoint"] = "a,b"
    run = make_plan(sweep_from(sweep), tmp_path)[0]
    with pytest.raises(SweepError, match="no commas"):
        command(run, Launch(), tmp_path)
