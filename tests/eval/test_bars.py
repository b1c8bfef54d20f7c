"""The exam's own bars and the hard subset follow from the replies, and what lacks is said to lack."""

from dataclasses import replace

import numpy as np
import pytest

from aot_tiny.shapes.questions import FAMILIES
from llava.eval.exam.settings import parse_setting
from llava.eval.records import Record
from llava.eval.tables.bars import bars, bars_section, published_cells, spearman
from llava.eval.tables.exam import hard_score, hard_subset, mean_iou

HEAD = {"weights": "w", "questions": 80, "seed": 7000, "torch": "2"}


def run(right, *, form_right=None):
    """80 records in both forms, ten a family and a clip each: of each ten the first `right` are right."""
    rows = []
    for i in range(80):
        for form in ("open", "choice"):
            score = float(i % 10 < (form_right or {}).get(form, right))
            rows.append(Record(form, str(i), FAMILIES[i // 10], score, None, "", "", prompt=f"q{i}", source=str(i)))
    return {"header": HEAD, "questions": rows}


def verdicts(runs):
    return {bar.asked.split(":")[0]: bar for bar in bars(runs)}


def test_the_hard_subset_is_what_all_tokens_get_right_and_the_floor_at_the_same_share_wrong():
    runs = {"full": run(9), "pool@0.1": run(6), "aot@0.1": run(8), "aot@0.05": run(8)}
    assert len(hard_subset(runs, 0.1)) == 8 * 3 * 2  # 6, 7 and 8 of every ten, in both forms
    assert hard_score(runs, parse_setting("aot@0.1")) == (pytest.approx(200 / 3), 48)
    assert hard_score(runs, parse_setting("pool@0.1"))[0] == 0
    for setting in ("aot@0.05", "full"):  # the floor was not asked so
        assert hard_score(runs, parse_setting(setting)) is None
    runs["pool@0.1"] = run(10)
    assert hard_score(runs, parse_setting("aot@0.1")) is None  # nothing is hard


def test_the_mean_overlap_is_over_the_intervals_alone():
    rows = run(5)["questions"]
    assert mean_iou(rows) is None
    rows[:2] = [replace(row, details={"iou": iou}) for row, iou in zip(rows, (1.0, 0.5), strict=False)]
    assert mean_iou(rows) == 75


def test_bars_are_met_or_missed_by_the_figures():
    met = verdicts({"full": run(9), "random@0.1": run(7), "blank": run(0)})
    assert [bar.met for bar in met.values()] == [True] * 6 + [None]
    assert met["a random tenth keeps 70 to 92 % of it"].figure == "77.8 %"
    missed = verdicts({"full": run(8), "random@0.1": run(4), "blank": run(7)})
    assert [bar.met for bar in missed.values()] == [False, False, True, False, False, False, None]
    words = verdicts({"full": run(0, form_right={"open": 9, "choice": 6})})
    assert words["all tokens, in words"].met and not words["all tokens, by letter"].met


def test_one_weak_family_misses_its_bar():
    whole = run(9)
    whole["questions"] = [replace(r, score=0.0) if r.group == "when" else r for r in whole["questions"]]
    bar = verdicts({"full": whole})["all tokens, every family"]
    assert bar.met is False and bar.figure == "0.0 % in when; 1 of 8 below"


def test_what_was_not_asked_is_said_not_to_be_measured():
    text = bars_section({"full": run(9)})
    assert text.count("| not measured | not measured |") == 4 and text.count("| pass |") == 3


def test_the_order_of_methods_is_compared_with_the_published_one():
    cells = published_cells()
    assert cells["dycoke", 0.25] == 92.6 and cells["holitom", 0.1] == pytest.approx((99.0 + 98.2) / 2)
    ranked = sorted((value, method) for (method, share), value in cells.items() if share == 0.1)
    runs = {"full": run(9), **{f"{method}@0.1": run(i + 1) for i, (_, method) in enumerate(ranked)}}
    bar = bars(runs)[-1]
    assert bar.met and bar.figure.startswith(f"1.00 over {len(ranked)} of {len(cells)} cells (10 %: 1.00")
    runs |= {f"{method}@0.1": run(9 - i) for i, (_, method) in enumerate(ranked)}
    assert bars(runs)[-1].met is False and bars(runs)[-1].figure.startswith("−1.00")


def test_rank_correlation():
    x, y = [3.0, 1.0, 2.0, 2.0, 5.0], [1.0, 0.0, 4.0, 2.0, 9.0]
    ranks = np.corrcoef([4, 1, 2.5, 2.5, 5], [2, 1, 4, 3, 5])[0, 1]  # equal values share a rank
    assert spearman(list(zip(x, y, strict=True))) == pytest.approx(ranks)
    assert spearman([(1, 2), (2, 3)]) is None and spearman([(1, 1), (1, 2), (1, 3)]) is None
