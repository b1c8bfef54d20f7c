"""Entries of the leaderboard: their scores follow from their replies, and nothing else is believed."""

import json
from pathlib import Path

import pytest

from aot_cli.main import main
from llava.eval.exam.evaluator import weights_hash
from llava.eval.exam.questions import make_exam
from llava.eval.jsonl import write_json
from llava.eval.leaderboard import entry_of, leaderboard_page, read_entries
from llava.eval.records import Record, write_records
from llava.eval.tables.bars import published_cells, spearman
from llava.eval.tables.exam import read_runs

ROOT = Path(__file__).parents[2]
COST = {"tokens": 57.0, "newlines": 16.0, "before": 576, "milliseconds": 2.5, "extra_mib": 1.25}
QUESTIONS = 16


def replies(wrong):
    """Records of a small exam as `aot exam` orders them; the first `wrong` questions are answered wrongly."""
    items = sorted(make_exam(QUESTIONS, seed=7000), key=lambda item: item.clip)
    rows = []
    for i, item in enumerate(items):
        truths = {"open": item.question.answer, "choice": item.letter, "likelihood": item.question.answer}
        for form, truth in truths.items():
            right = i >= wrong
            rows.append(Record(
                form, f"{item.clip}-{len(rows)}", item.question.family, float(right), None,
                truth if right else "?", truth, prompt=item.question.text, source=str(item.clip),
            ))  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def weights():
    return weights_hash(ROOT / "checkpoints/aot-tiny")


@pytest.fixture
def exam(tmp_path, weights):
    """A folder of two runs: all tokens, and a tenth of them with every fourth question wrong."""
    for setting, wrong, cost in (("full", 0, None), ("aot@0.1", 4, COST)):
        folder = tmp_path / "exam" / setting
        folder.mkdir(parents=True)
        header = {"setting": setting, "weights": weights, "questions": QUESTIONS, "seed": 7000, "torch": "2"}
        write_records(folder / "questions.jsonl", replies(wrong))
        write_json(folder / "result.json", {"header": header, "cost": cost, "code": "c", "machine": "cpu"})
    return tmp_path / "exam"


def leaderboard(*words):
    return main(["leaderboard", *map(str, words)])


def rows_of(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    return json.loads(page.partition("const rows = ")[2].partition(";\n")[0])


def test_one_command_adds_entries_and_writes_the_page(exam, tmp_path, capsys):
    entries = tmp_path / "entries"
    assert leaderboard(exam, "--entries", entries) == 0
    names = [path.name for path in sorted(entries.glob("*.json"))]
    assert names == ["aot-tiny_aot@0.1_shapes_7000_16.json", "aot-tiny_full_shapes_7000_16.json"]
    whole, tenth = rows_of(entries)
    assert (whole["method"], whole["both"], whole["kept"], whole["relative"]) == ("all tokens", 100, 100, 100)
    assert (tenth["method"], tenth["both"], tenth["share"], tenth["milliseconds"]) == ("aot", 75, 0.1, 2.5)
    assert tenth["machine"] == "cpu"
    assert tenth["kept"] == pytest.approx(100 * 57 / 576, abs=1e-3) and tenth["relative"] == 75


def test_scores_are_those_of_the_records(exam):
    run = read_runs(exam)["aot@0.1"]
    scores = entry_of(run)["scores"]
    for family, score in scores["families"].items():
        marks = [r.score for r in run["questions"] if r.group == family and r.task in ("open", "choice")]
        assert score == pytest.approx(100 * sum(marks) / len(marks), abs=1e-3)
    assert scores["open"] == scores["choice"] == scores["both"] == 75


@pytest.mark.parametrize("change", ["score", "reply", "missing", "world"])
def test_an_entry_that_does_not_follow_is_refused(exam, tmp_path, change, capsys):
    entries = tmp_path / "entries"
    assert leaderboard(exam, "--entries", entries) == 0
    path = entries / "aot-tiny_aot@0.1_shapes_7000_16.json"
    entry = json.loads(path.read_text())
    if change == "score":
        entry["scores"]["both"] = 99.0
    elif change == "reply":
        entry["replies"]["choice"][-1] = "?"
    elif change == "missing":
        entry["replies"]["open"].pop()
    else:
        entry["exam"]["world"] = "other"
    write_json(path, entry)
    capsys.readouterr()
    assert leaderboard("--entries", entries) == 2
    assert path.name in capsys.readouterr().err


def test_another_model_must_be_named(exam, tmp_path, weights, capsys):
    for path in exam.glob("*/result.json"):
        path.write_text(path.read_text().replace(weights, "0" * 64))
    assert leaderboard(exam, "--entries", tmp_path / "entries") == 2
    assert "--model NAME" in capsys.readouterr().err
    assert leaderboard(exam, "--entries", tmp_path / "entries", "--model", "my model") == 0
    assert (tmp_path / "entries" / "my-model_full_shapes_7000_16.json").is_file()


def test_the_embedded_model_loaded_otherwise_must_be_named(exam, tmp_path, capsys):
    for path in exam.glob("*/result.json"):
        made = json.loads(path.read_text())
        write_json(path, {**made, "header": {**made["header"], "quantization": "int8"}})
    assert leaderboard(exam, "--entries", tmp_path / "entries") == 2
    assert "--model NAME" in capsys.readouterr().err
    assert leaderboard(exam, "--entries", tmp_path / "entries", "--model", "aot-tiny in int8") == 0


def test_a_name_cannot_end_the_script(exam, tmp_path):
    assert leaderboard(exam, "--entries", tmp_path / "entries", "--model", "</script><b>") == 0
    page = (tmp_path / "entries" / "index.html").read_text()
    assert page.count("</script>") == 1 and "<b>" not in page
    assert rows_of(tmp_path / "entries")[0]["model"] == "</script><b>"


def test_entries_of_the_repository_follow_from_their_replies():
    folder = ROOT / "docs/leaderboard"
    entries = read_entries(folder)
    required = set(json.loads((folder / "schema.json").read_text())["required"])
    assert entries and all(set(entry) == required for entry in entries)
    assert (folder / "index.html").read_text(encoding="utf-8") == leaderboard_page(entries)


def test_the_agreement_that_the_results_name_follows_from_the_entries():
    exam = {"world": "shapes", "questions": 1040, "seed": 0}
    entries = [made for made in read_entries(ROOT / "docs/leaderboard") if made["exam"] == exam]
    measured = {made["setting"]: made["scores"]["both"] for made in entries}
    pairs = [
        (measured[setting], value)
        for (method, share), value in published_cells().items()
        if (setting := f"{method}@{share:g}") in measured
    ]
    said = f"Spearman {spearman(pairs):.2f} over {len(pairs)} cells"
    assert said in (ROOT / "docs/results.md").read_text()
