"""lmms-eval's graders where those guess or ask a judge: here a grade follows from question and reply alone.

EgoSchema and LongVideoBench draw an option at random when a reply names none. The expected score stays the same
when the option is drawn by the question's own name instead, and a run can be repeated. MLVU's test questions have
up to six options, of which the shipped grader sees four. TempCompass and MMVU ask a model behind a web address
about a reply that their rules do not understand; here it is wrong. Vinoground's score needs all 2000 questions.
"""

import hashlib
import math
import statistics
from collections.abc import Sequence

UNPARSED = "?"


def guess(name: str, choices: list[str]) -> str:
    """One of the choices, always the same one for a name."""
    return choices[int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % len(choices)]


def egoschema(doc: dict, results: list[str]) -> dict:
    from lmms_eval.tasks.egoschema import utils

    answers, choices = utils.get_multi_choice_info(doc)
    _, named = utils.parse_multi_choice_response(results[0], choices, answers)
    reply = results[0] if named else f"({guess(doc['video_idx'], choices)})"
    return utils.egoschema_process_results_generation(doc, [reply])


def longvideobench(doc: dict, results: list[str]) -> dict:
    from lmms_eval.tasks.longvideobench import utils

    options = [doc[f"option{i}"] for i in range(5) if doc.get(f"option{i}") != "N/A"]
    answers, choices = utils.get_multi_choice_info(options)
    # with one choice to draw from, the parser's draw shows
    drawn = utils.parse_multi_choice_response(results[0], [UNPARSED], answers) == UNPARSED
    return utils.longvideobench_process_results(doc, [guess(doc["id"], choices) if drawn else results[0]])


def mlvu_test(doc: dict, results: list[str]) -> dict:
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    said = extract_mcq_answer(results[0], choices=list("ABCDEF"))
    row = {"question_id": doc["question"], "task_type": doc["task_type"], "pred_answer": said, "answer": doc["answer"]}
    return {"mlvu_percetion_score": row}


def tempcompass_multi_choice(doc: dict, results: list[str]) -> dict:
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
    from lmms_eval.tasks.tempcompass import utils

    wrong = "B" if doc["answer"].startswith("A") else "A"
    said = extract_mcq_answer(results[0], choices=list("ABCD")) or wrong
    return utils.tempcompass_process_results_multi_choice(doc, [said])


def tempcompass_yes_no(doc: dict, results: list[str]) -> dict:
    from lmms_eval.tasks.tempcompass import utils

    wrong = "no" if doc["answer"] == "yes" else "yes"
    said = results[0] if utils.extract_pred(results[0]) else wrong
    return utils.tempcompass_process_results_yes_no(doc, [said])


def tempcompass_caption_matching(doc: dict, results: list[str]) -> dict:
    """A caption is chosen by the rules of lmms-eval, or where its name alone is in the reply: "Option 1"."""
    from lmms_eval.tasks.tempcompass import utils

    said = results[0]
    if utils.eval_rule(said, doc["question"], doc["answer"]) == "fail":
        captions = doc["question"].split("\n")[1:]
        named = [caption for caption in captions if caption.split(": ")[0] in said]
        said = named[0] if len(named) == 1 else next(caption for caption in captions if caption != doc["answer"])
    return utils.tempcompass_process_results_caption_matching(doc, [said])


def mmvu(doc: dict, results: list[str]) -> dict:
    from lmms_eval.tasks.mmvu import utils

    right = utils.evaluate_with_rule_based(doc, results[0])
    return {"accuracy": {"question_id": doc["id"], "category": utils.extract_category(doc), "correct": right}}


def percent_correct(rows: Sequence[dict]) -> float:
    return 100 * statistics.fmean(row["correct"] for row in rows)


def vinoground(doc: dict, results: list[str]) -> dict:
    from lmms_eval.tasks.vinoground import utils

    if not utils.textscore_dict:
        utils.prep_data()
    row = utils.vinoground_process_results(doc, results)["vinoground_score"]
    asked = utils.textscore_dict if row["question_type"] == "text" else utils.videoscore_dict
    row["correct"] = row["pred"][:1].lower() == asked[row["index"]]["GT"].lower()
    return dict.fromkeys(("vinoground_text", "vinoground_video", "vinoground_group"), row)


def vinoground_text(rows: Sequence[dict]) -> float:
    """Share of the pairs of clips with both captions chosen rightly, in percent."""
    return _percent_of_pairs(rows, ("text",))


def vinoground_video(rows: Sequence[dict]) -> float:
    """Share of the pairs with both clips chosen rightly."""
    return _percent_of_pairs(rows, ("video",))


def vinoground_group(rows: Sequence[dict]) -> float:
    """Share of the pairs with all four questions answered rightly."""
    return _percent_of_pairs(rows, ("text", "video"))


def _percent_of_pairs(rows: Sequence[dict], kinds: tuple[str, ...]) -> float:
    pairs: dict[str, list[bool]] = {}
    for row in rows:
        if row["question_type"] in kinds:
            pairs.setdefault(row["index"].split("_")[0], []).append(row["correct"])
    return 100 * statistics.fmean(map(all, pairs.values())) if pairs else math.nan
