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
