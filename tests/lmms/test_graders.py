"""What lmms-eval's own graders make of failed, empty and unreadable replies."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval")

from lmms_eval.tasks.egoschema.utils import egoschema_process_results_generation
from lmms_eval.tasks.longvideobench.utils import longvideobench_process_results
from lmms_eval.tasks.mlvu.utils import mlvu_process_results
from lmms_eval.tasks.mvbench.utils import mvbench_aggregate_results, mvbench_process_results
from lmms_eval.tasks.videomme.utils import videomme_process_results

from llava.eval.lmms.questions import EMPTY, reply_to_grade
from llava.eval.records import Record

FAILED = Record("t", "0", failure="VideoError: cut short")
TASKS = Path(__file__).resolve().parents[2] / "lmms_eval_tasks"


def graders():
    spec = importlib.util.spec_from_file_location("graders", TASKS / "groups" / "graders.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ego(answer):
    return {"video_idx": "x", "option": [f"{c}. option {c}" for c in "ABCDE"], "answer": str(answer)}


def long_video(right, options=5):
    texts = {f"option{i}": f"text {i}" if i < options else "N/A" for i in range(5)}
    return {"id": "v_1", "duration_group": 15, "question_category": "S2E", "correct_choice": right, **texts}


def videomme(answer):
    names = ("domain", "sub_category", "task_type", "question_id", "duration", "videoID")
    return {"answer": answer, **dict.fromkeys(names, "x")}


@pytest.mark.parametrize("right", range(5))
def test_a_failed_question_is_wrong_for_the_graders_that_guess(right):
    doc = ego(right)
    row = egoschema_process_results_generation(doc, [reply_to_grade(FAILED, doc)])["score"]
    assert row["pred"] in range(5) and row["pred"] != right
    doc = long_video(right)
    row = longvideobench_process_results(doc, [reply_to_grade(FAILED, doc)])["lvb_acc"]
    assert row["parsed_pred"] in "ABCDE" and row["parsed_pred"] != row["answer"]


@pytest.mark.parametrize("right", "ABCD")
def test_a_failed_question_is_wrong_for_the_graders_of_letters(right):
    reply = reply_to_grade(FAILED, {"answer": right})
    assert videomme_process_results(videomme(right), [reply])["videomme_perception_score"]["score"] == 0
    row = mlvu_process_results({"question": "?", "task_type": "count", "answer": right}, [reply])
    assert row["mlvu_percetion_score"]["pred_answer"] == ""


@pytest.mark.parametrize("record", [FAILED, Record("t", "0", reply="")])
def test_mvbench_does_not_leave_a_question_out_of_its_mean(record):
    doc = {"candidates": ["yes", "no"], "answer": "yes"}
    right = mvbench_process_results(doc, ["(A)"])["mvbench_accuracy"]
    other = mvbench_process_results(doc, [reply_to_grade(record, doc)])["mvbench_accuracy"]
    assert mvbench_aggregate_results([right, other]) == 50
    # which is what it does with the empty reply itself
    dropped = mvbench_process_results(doc, [""])["mvbench_accuracy"]
    assert mvbench_aggregate_results([right, dropped]) == 100


def test_a_reply_is_graded_as_it_is():
    assert reply_to_grade(Record("t", "0", reply="(B) red"), ego(1)) == "(B) red"
    assert reply_to_grade(Record("t", "0", reply=""), ego(1)) == EMPTY


def test_the_groups_graders_guess_the_same_every_time():
    ours = graders()
    for grade, doc, field in (
        (ours.egoschema, ego(2), ("score", "pred")),
        (ours.longvideobench, long_video(2, options=4), ("lvb_acc", "parsed_pred")),
    ):
        guesses = {grade(doc, ["no idea"])[field[0]][field[1]] for _ in range(20)}
        assert len(guesses) == 1
    assert len({ours.guess(f"v{i}", list("ABCDE")) for i in range(60)}) == 5
    assert {ours.longvideobench({**long_video(0, options=2), "id": f"v{i}"}, ["?"])["lvb_acc"]["parsed_pred"]
            for i in range(30)} == {"A", "B"}  # fmt: skip


def test_the_groups_graders_leave_clear_replies_alone():
    ours = graders()
    for reply in ("(D)", "D", "The answer is D."):
        doc = ego(3)
        assert ours.egoschema(doc, [reply]) == egoschema_process_results_generation(doc, [reply])
        doc = long_video(3)
        assert ours.longvideobench(doc, [reply]) == longvideobench_process_results(doc, [reply])
    assert ours.longvideobench(long_video(3), ["D"])["lvb_acc"]["parsed_pred"] == "D"


def test_options_beyond_the_fourth_of_mlvu_count():
    doc = {"question": "?", "task_type": "order", "answer": "F"}
    assert graders().mlvu_test(doc, ["(F) last"])["mlvu_percetion_score"]["pred_answer"] == "F"
    assert mlvu_process_results(doc, ["(F) last"])["mlvu_percetion_score"]["pred_answer"] != "F"


@pytest.fixture
def no_judge(monkeypatch, tmp_path):
    """TempCompass and MMVU may not ask a model behind a web address."""
    import requests

    def refuse(*_, **__):
        raise AssertionError("a judge was asked")

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(requests, "post", refuse)
    monkeypatch.setattr("lmms_eval.tasks.mmvu.utils._get_pipeline", refuse)


def choice(answer):
    return {"video_id": "1", "dim": "order", "question": "?\nA. up\nB. down\nC. left", "answer": answer}


def caption(answer):
    question = "Which fits?\nOption 1: It grows.\nOption 2: It shrinks."
    return {"video_id": "1", "dim": "order", "question": question, "answer": answer}


def open_question(kind, answer):
    choices = {"A": "one", "B": "two", "C": "three", "D": "four", "E": "five"}
    return {"id": "1", "video_path": "x/Art/1.mp4", "question_type": kind, "choices": choices, "answer": answer}


@pytest.mark.parametrize(
    "grader, doc, right, wrong",
    [
        ("tempcompass_multi_choice", choice("A. up"), ["A", "A. up", "(A) up", "The answer is A."], ["B", "C. left"]),
        ("tempcompass_multi_choice", choice("C. left"), ["C", "(C)"], ["A. up"]),
        ("tempcompass_yes_no", {**choice("yes"), "question": "?"}, ["Yes.", "yes, it is"], ["No", "no"]),
        ("tempcompass_yes_no", {**choice("no"), "question": "?"}, ["No."], ["Yes"]),
        ("tempcompass_caption_matching", caption("Option 1: It grows."),
         ["Option 1", "1", "It grows.", "I choose Option 1, since it grows."],
         ["Option 2", "It shrinks.", "Option 1 or Option 2"]),
        ("mmvu", open_question("multiple-choice", "B"), ["B", "(B) two"], ["C", "four"]),
        ("mmvu", open_question("open-ended", "depth-first search"), ["It is depth-first search."], ["sorting"]),
    ],
)  # fmt: skip
def test_no_judge_is_asked(no_judge, grader, doc, right, wrong):
    from llava.eval.lmms.results import question_score

    grade = getattr(graders(), grader)
    for reply in right:
        assert {question_score(row) for row in grade(doc, [reply]).values()} == {1.0}, reply
    for reply in [
        *wrong,
        "I cannot tell",
        reply_to_grade(FAILED, doc),
        reply_to_grade(Record("t", "0", reply=""), doc),
    ]:
        assert {question_score(row) for row in grade(doc, [reply]).values()} == {0.0}, reply


def test_vinoground_counts_pairs_of_any_part_of_it(tmp_path, monkeypatch):
    from lmms_eval.tasks.vinoground import utils

    ours = graders()
    asked = {f"{number}_{sign}": {"GT": letter} for number in (0, 1) for sign, letter in (("pos", "A"), ("neg", "B"))}
    monkeypatch.setattr(utils, "textscore_dict", asked)
    monkeypatch.setattr(utils, "videoscore_dict", asked)
    replies = {
        "0_pos_text": "A",
        "0_neg_text": "b",
        "0_pos_video": "A",
        "0_neg_video": "A.",
        "1_pos_text": "",
        "1_neg_text": "B",
    }
    rows = []
    for index, reply in replies.items():
        (row, *_) = ours.vinoground({"index": index, "major": "object", "minor": "a;b"}, [reply]).values()
        rows.append(row)
    assert [row["correct"] for row in rows] == [True, True, True, False, False, True]
    assert (ours.vinoground_text(rows), ours.vinoground_video(rows), ours.vinoground_group(rows)) == (50, 0, 0)
    assert ours.vinoground_video(rows[:2]) != ours.vinoground_video(rows[:2])  # nan: nothing was asked
    assert ours.vinoground_group(rows[:3]) == 100


def test_videoevalpro_has_one_score():
    from lmms_eval.tasks.videoevalpro import utils

    doc = {"question": "?", "options": ["A. one", "B. two"], "answer": "B", "qa_type": "Local Perception"}
    rows = [
        utils.videoevalpro_mcq_process_results(doc, [reply])["videoevalpro_mcq_score"]
        for reply in ("B", "A", "?", "[failed]")
    ]
    assert graders().percent_correct(rows) == 25
