"""The results page: intervals, ranking and sections follow from the replies; scripts replace only their own part."""

from dataclasses import replace

import numpy as np
import pytest

from aot_cli.main import main
from llava.eval.jsonl import write_json
from llava.eval.records import Record, write_records
from llava.eval.statistics import compare
from llava.eval.sweep import SweepError
from llava.eval.tables.exam import interval, read_runs, scores
from llava.eval.tables.exam_page import exam_section, label
from llava.eval.tables.markdown import write_section


def replies(open_, choice, *, clips=None):
    """Records of one family from lists of scores; a clip each unless told otherwise."""
    clips = clips or range(len(open_))
    rows = [
        Record(form, str(i), "motion", float(score), None, "", "", prompt=f"q{i}", source=str(c))
        for form, values in (("open", open_), ("choice", choice))
        for i, (c, score) in enumerate(zip(clips, values, strict=True))
    ]
    return rows


def test_both_forms_count_and_captions_do_not():
    rows = [*replies([1, 0], [1, 1]), Record("caption", "2", "caption", 0.0, None, "", "")]
    assert scores(rows).tolist() == [1, 0, 1, 1]
    assert scores(rows, form="open").mean() == 0.5 and len(scores(rows, family="order")) == 0


def test_the_interval_of_equal_replies_is_nothing_and_of_a_constant_gap_is_the_gap():
    same = replies([1, 0, 1], [0, 1, 1])
    assert interval(same, same) == (0, 0)
    assert interval(replies([1] * 9, [1] * 9), replies([0] * 9, [0] * 9)) == (100, 100)


def test_the_interval_meets_the_normal_one_for_many_clips():
    rng = np.random.default_rng(1)
    ours, theirs = rng.integers(2, size=(2, 400)), rng.integers(2, size=(2, 400))
    low, high = interval(replies(*ours), replies(*theirs))
    change = 50 * (ours - theirs).sum(0)  # per clip, points
    middle, half = change.mean(), 1.96 * change.std() / 20
    assert low == pytest.approx(middle - half, abs=0.7) and high == pytest.approx(middle + half, abs=0.7)


def test_questions_of_one_clip_are_drawn_together():
    # ten clips of which half are right in everything: as uncertain as ten questions, however many are asked
    right = [int(i < 50) for i in range(100)]
    wrong = [0] * 100
    together = interval(
        replies(right, right, clips=[i // 10 for i in range(100)]),
        replies(wrong, wrong, clips=[i // 10 for i in range(100)]),
    )
    apart = interval(replies(right, right), replies(wrong, wrong))
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_replies_to_other_questions_are_not_compared():
    with pytest.raises(SweepError, match="other questions"):
        interval(replies([1, 0], [1, 0]), replies([1, 0], [1, 0], clips=[3, 4]))


def test_strata_are_further_columns():
    rows = [replace(record, strata={"camera": "pan" if record.doc_id == "0" else "still"}) for record in replies(
        [1, 0, 0], [1, 1, 0]
    )]  # fmt: skip
    assert scores(rows, camera="pan").tolist() == [1, 1]
    assert scores(rows, form="open", camera="still").tolist() == [0, 0]
    runs = {"full": {"header": {"questions": 8, "seed": 7000, "weights": "w", "torch": "2"}, "questions": rows}}
    assert "### Both forms, by camera\n\n| tokens | pan | still |" in exam_section(runs)
    assert "| all tokens | 100.0 | 25.0 |" in exam_section(runs)


def test_labels():
    assert label("full") == "all tokens" and label("aot@0.15") == "aot 15 %"
    assert label("aot@0.1,clips=dynamic") == "aot 10 %, clips=dynamic"
    assert label("dycoke+tuned@0.1") == "dycoke+tuned 10 %" and label("aot@0.1+shuffled") == "aot 10 %, +shuffled"


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    page = tmp_path / "docs" / "results.md"
    write_section(page, "exam", "one")
    write_section(page, "methods", "two")
    write_section(page, "exam", "three")
    text = page.read_text()
    assert "one" not in text and text.index("three") < text.index("two")
    assert text.startswith("# Results") and text.count("exam:begin") == text.count("exam:end") == 1


def test_one_clip_alone_has_no_interval():
    one, other = replies([1, 0], [1, 1], clips=[5, 5]), replies([0, 0], [1, 1], clips=[5, 5])
    assert np.isnan(interval(one, other)).all()
    assert np.isnan(compare([[np.ones((2, 1))], [np.zeros((2, 1)), np.ones((2, 1))]])).all()
    assert np.isfinite(compare([[np.ones((2, 1))], [np.ones((2, 2))]])).all()


@pytest.fixture
def leave(tmp_path):
    """Leaves a run of the exam in the folder."""

    def run(setting, questions=8, **loaded):
        folder = tmp_path / "-".join([setting, "0", str(questions), *loaded.values()])
        folder.mkdir()
        header = {"setting": setting, "weights": "w", "questions": questions, "seed": 0, "torch": "2", **loaded}
        write_json(folder / "result.json", {"header": header})
        write_records(folder / "questions.jsonl", replies([1, 0], [1, 1]))
        return folder

    return run


def test_a_folder_of_two_exams_is_refused(tmp_path, leave):
    leave("full", 8)
    (run,) = read_runs(tmp_path).values()
    assert run["header"]["setting"] == "full" and run["questions"] == replies([1, 0], [1, 1])
    leave("blank", 16)
    with pytest.raises(SweepError, match="mixes"):
        read_runs(tmp_path)
    assert set(read_runs(tmp_path, questions=8)) == {"full"}
    with pytest.raises(SweepError, match="full"):
        read_runs(tmp_path, questions=16)


@pytest.mark.parametrize("loaded", [{"quantization": "int8"}, {"tower_dtype": "bfloat16"}])
def test_a_model_that_was_loaded_otherwise_is_another(tmp_path, leave, loaded):
    leave("full")
    leave("full", **loaded)
    (name,) = loaded
    with pytest.raises(SweepError, match=f"differ in {name}"):
        read_runs(tmp_path)
    for value in (None, loaded[name]):
        (run,) = read_runs(tmp_path, **{name: value}).values()
        assert run["header"].get(name) == value


@pytest.mark.parametrize("left", ["", "{", "[1"])
def test_a_damaged_result_is_one_sentence(tmp_path, leave, left, capsys):
    leave("full")
    path = leave("aot@0.1") / "result.json"
    path.write_text(left)
    for words in (["report", "--page", str(tmp_path / "page.md")], ["leaderboard", "--entries", str(tmp_path / "e")]):
        assert main([*words, str(tmp_path)]) == 2
        assert f"{path} is damaged" in capsys.readouterr().err


def test_report_takes_the_folder_of_an_exam(tmp_path, leave, capsys):
    page = tmp_path / "results.md"
    leave("full")
    assert main(["report", str(tmp_path), "--page", str(page)]) == 0
    assert "| all tokens | 75.0 | – | 100.0 |" in page.read_text() and capsys.readouterr().out.strip() == str(page)
