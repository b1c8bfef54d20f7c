import csv
import itertools
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from llava.eval.jsonl import write_json
from llava.eval.lmms.results import question_group, question_score
from llava.eval.plan import make_plan, read_result, write_plan
from llava.eval.records import Record, read_records, write_records
from llava.eval.report import main as report
from llava.eval.statistics import Interval, compare
from llava.eval.sweep import sweep_from
from llava.eval.tables.benchmarks import load_tables


def test_the_interval_is_that_of_all_possible_draws():
    scores = np.array([[1.0, 1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0, 1.0]])
    draws = np.array(list(itertools.product(range(5), repeat=5)))  # all 3125, equally likely
    differences = 100 * (scores[1] - scores[0])[draws].mean(1)
    _, difference = compare([[scores]], draws=20000)[1]
    low, high = np.percentile(differences, [2.5, 97.5])
    assert difference.low == pytest.approx(low) and difference.high == pytest.approx(high)


def test_equal_answers_differ_by_nothing_whatever_is_drawn():
    scores = np.random.default_rng(0).integers(0, 2, 40).astype(float)
    assert compare([[np.stack([scores, scores])]])[1] == (Interval(100, 100), Interval(0, 0))


def test_the_interval_of_a_paired_difference_has_the_width_that_theory_gives():
    rng = np.random.default_rng(1)
    base = rng.random(2000) < 0.6
    other = np.where(rng.random(2000) < 0.1, ~base, base)
    scores = np.stack([base, other]).astype(float)
    _, width = compare([[scores]])[1]
    expected = 2 * 1.96 * 100 * (scores[1] - scores[0]).std() / np.sqrt(2000)
    assert width.high - width.low == pytest.approx(expected, rel=0.06)


def test_groups_are_averaged_before_tasks():
    wrong = np.zeros((2, 8))
    right = np.stack([np.zeros(2), np.ones(2)])
    assert compare([[right, wrong], [wrong]])[1][1] == Interval(25, 25)


@pytest.mark.parametrize(
    "value, score",
    [
        ({"pred_answer": "A", "answer": "A", "score": 1.0}, 1.0),  # Video-MME
        ({"pred_answer": "A", "answer": "B", "task_type": "ego"}, 0.0),  # MLVU
        ({"pred_answer": "(A)", "gt_answer": "A", "score": 1}, 1.0),  # MVBench
        ({"pred": 2, "ground_truth": "2"}, 1.0),  # EgoSchema
        ({"parsed_pred": "C", "answer": "B", "id": "x"}, 0.0),  # LongVideoBench
        ({"gt-answer": "yes", "rating": 1, "dim": "order"}, 1.0),  # TempCompass
        ({"answer": "A", "correct": False}, 0.0),  # MMVU, VideoEval-Pro
        (True, 1.0),
        (0.25, 0.25),
        ({"video": 3}, None),
        (37.0, None),
        ("A", None),
    ],
)
def test_scores_of_single_questions(value, score):
    assert question_score(value) == score


def test_mlvu_is_grouped_by_kind_and_others_by_subtask():
    assert question_group("mlvu_dev", {"task_type": "ego"}) == "mlvu_dev/ego"
    assert question_group("mvbench_moving_count", {"task_type": "ego"}) == "mvbench_moving_count"


def question(number, score, *, failure=None, group="t", kept=10):
    tokens = {"visual": kept, "visual_before": 100}
    return Record("t", str(number), group, score, failure, None if failure else "A", "A", tokens, {"compress": 0.002})


@pytest.fixture
def results(tmp_path, sweep):
    """Results of two settings on one task, the second with a failed question, written as `aot eval` does."""
    sweep["tasks"] = [{"name": "t", "published": "videomme"}]
    sweep["models"][0]["published"] = "llava-onevision-7b"
    sweep["settings"][0]["published"] = ["all tokens", "all tokens"]
    sweep["settings"][1]["published"] = ["10%", "AOT"]
    made = sweep_from(sweep)
    runs = make_plan(made, tmp_path / "out")
    replies = [
        [question(i, float(i < 8), kept=100) for i in range(10)],
        [question(i, float(i < 6), failure="the video is cut short" if i == 9 else None) for i in range(10)],
    ]
    for run, questions in zip(runs, replies, strict=True):
        run.folder.mkdir(parents=True)
        write_records(run.folder / "questions.jsonl", questions)
        failures = [q.failure for q in questions if q.failure]
        manifest = {
            "identity": run.identity,
            "model": "M",
            "setting": run.setting.name,
            "questions": 10,
            "failed": len(failures),
            "failures": failures,
            "scores": {"t": 80.0},
            "harness_scores": {"t": {"acc": 0.8}},
            "versions": {"torch": "2"},
            "commit": {"revision": "0123456789abcdef", "changed": False},
            "hardware": {"gpus": [], "cores": 2, "processor": "CPU"},
        }
        write_json(run.folder / "result.json", manifest)
    return write_plan(made, runs, tmp_path / "out"), runs


def test_measured_stands_beside_published_with_an_interval(results):
    folder, _ = results
    (table,) = load_tables([folder])
    whole, tenth = table.rows
    assert (whole.average, tenth.average, tenth.relative) == (80.0, 60.0, 75.0)
    assert tenth.cells[0].published == 56.1 and tenth.cells[0].difference == pytest.approx(3.9)
    assert tenth.relative_interval.low < 75 < tenth.relative_interval.high <= 100
    assert tenth.tokens == 10 and tenth.compress_ms == 2 and tenth.failed == 1


def test_report_writes_markdown_csv_and_a_picture(results, capsys):
    folder, _ = results
    assert report([str(folder)]) == 1  # a question failed
    page = (folder / "small.md").read_text()
    assert "60.0 (56.1, +3.9)" in page and "Failed questions: 1" in page and "the video is cut short" in page
    assert page.startswith("# A small table") and "0123456789ab" in page
    rows = list(csv.DictReader((folder / "small.csv").open()))
    (cell,) = [r for r in rows if r["setting"] == "a tenth" and r["task"] == "t"]
    assert (cell["measured"], cell["published"], cell["difference"], cell["failed"]) == ("60.0", "56.1", "3.9", "1")
    assert (folder / "small.png").read_bytes().startswith(b"\x89PNG")
    assert "failed questions" in capsys.readouterr().err


def test_without_matplotlib_there_are_tables_and_a_sentence(results, capsys, monkeypatch):
    folder, _ = results
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert report([str(folder)]) == 1  # a question failed
    said = capsys.readouterr().err
    assert "small.png is not drawn" in said and "pip install matplotlib" in said
    assert "60.0 (56.1, +3.9)" in (folder / "small.md").read_text() and ".png" not in (folder / "small.md").read_text()
    assert (folder / "small.csv").is_file() and not (folder / "small.png").exists()


def test_questions_come_back_whatever_line_ends_they_hold(tmp_path):
    odd = replace(question(0, 1.0), reply="a\u2028b\u0085", target="c\u2029d\ud800\r")
    write_records(tmp_path / "q.jsonl", [odd, question(1, 0.0)])
    assert read_records(tmp_path / "q.jsonl") == [odd, question(1, 0.0)]


def test_a_damaged_line_is_named(results, capsys):
    folder, runs = results
    path = runs[0].folder / "questions.jsonl"
    path.write_bytes(path.read_bytes() + b"{\n")
    assert report([str(folder)]) == 2
    assert "questions.jsonl:11 is no JSON" in capsys.readouterr().err
    (folder / "sweep.json").write_text("{")
    assert report([str(folder)]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_missing_run_leaves_a_gap_and_is_named(results):
    folder, runs = results
    (runs[1].folder / "result.json").write_text("{")  # damaged: it has to be run again, as a missing one has
    assert read_result(runs[1].folder) is None
    (runs[1].folder / "result.json").unlink()
    (table,) = load_tables([folder])
    assert table.rows[1].average is None and table.rows[1].relative_interval is None
    assert any("Not run yet: a tenth on t" in warning for warning in table.warnings)
    assert report([str(folder)]) == 1


def test_settings_with_other_questions_have_no_interval(results):
    folder, runs = results
    write_records(runs[1].folder / "questions.jsonl", [question(i, 1.0) for i in range(5)])
    (table,) = load_tables([folder])
    assert table.rows[1].relative is None and table.rows[1].average == 100
    assert any("same questions" in warning for warning in table.warnings)


def test_a_folder_without_a_sweep_is_refused(tmp_path, capsys):
    assert report([str(tmp_path)]) == 2
    assert "There is no sweep in" in capsys.readouterr().err


def test_the_results_of_an_earlier_release_are_read(results):
    folder, _ = results
    data = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").unlink()
    (folder / "campaign.json").write_text(json.dumps({"campaign": data["sweep"], "runs": data["runs"]}))
    (table,) = load_tables([folder])
    assert [row.average for row in table.rows] == [80.0, 60.0]


def test_sweeps_of_one_name_are_put_together(results, tmp_path):
    folder, _ = results
    data = json.loads((folder / "sweep.json").read_text())
    other = tmp_path / "other" / "small"
    other.mkdir(parents=True)
    first = {**data, "sweep": {**data["sweep"], "settings": data["sweep"]["settings"][:1]}}
    first["runs"] = data["runs"][:1]
    for row in first["runs"]:
        row["folder"] = str((folder / row["folder"]).resolve())
    (other / "sweep.json").write_text(json.dumps(first))
    (table,) = load_tables([other, folder])
    assert [row.setting.name for row in table.rows] == ["all tokens", "a tenth"]
    assert table.rows[1].relative_interval.high <= 100


def test_a_score_that_lmms_eval_sees_otherwise_is_told(results):
    folder, runs = results
    (table,) = load_tables([folder])
    assert not table.warnings
    path = runs[0].folder / "result.json"
    manifest = {**json.loads(path.read_text()), "harness_scores": {"t": {"acc": 0.7}}}
    path.write_text(json.dumps(manifest))
    (table,) = load_tables([folder])
    assert any("ours is 80.00, lmms-eval's own acc 0.7" in warning for warning in table.warnings)
