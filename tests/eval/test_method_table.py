"""The table of all methods: every registered one sits the exam, the words follow from the figures."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import aot
from aot_tiny.shapes.questions import FAMILIES
from llava.eval.exam.command import main
from llava.eval.exam.perturb import perturb_input, perturbed_order
from llava.eval.exam.settings import methods_at, parse_setting
from llava.eval.jsonl import write_json
from llava.eval.records import Record, write_records
from llava.eval.report import left_out, write_exam
from llava.eval.sweep import load_sweep
from llava.eval.tables.exam import ranking
from llava.eval.tables.exam_page import ablation_section, methods_csv, methods_section, verdict
from llava.eval.tables.plots import accuracy_plot
from llava.model.compression import VideoFeatures

SWEEP = load_sweep("methods")
ABLATIONS = SWEEP.ablations
TINY = Path(__file__).parents[2] / "checkpoints" / "aot-tiny"
HEAD = {"weights": "0" * 64, "questions": 80, "seed": 7000, "torch": "2"}
PLOT = "images/results-methods.png"
COST = {"tokens": 10.0, "newlines": 16.0, "before": 100, "milliseconds": 2.5, "extra_mib": 1.25}


def run(setting, right, *, cost=COST):
    """80 records in both forms, ten a family and a clip each, of which `right` of every ten are right."""
    rows = [
        Record(form, str(i), FAMILIES[i // 10], float(i % 10 < right), None, "", "", prompt=f"q{i}", source=str(i))
        for i in range(80)
        for form in ("open", "choice", "likelihood")
    ]
    return {"header": {"setting": setting, **HEAD}, "questions": rows, "cost": cost, "code": "c"}


def right_about(run, *clips):
    """The records of a run, those about these clips all right."""
    return [replace(record, score=1.0) if record.source in clips else record for record in run["questions"]]


@pytest.fixture
def runs():
    settings = {
        "full": 9,
        "blank": 1,
        "aot@0.1": 8,
        "random@0.1": 3,
        "uniform@0.1": 8,
        "aot@0.05": 6,
        "uniform@0.05": 7,
    }
    found = {name: run(name, right) for name, right in settings.items()}
    found["full"]["cost"] = found["blank"]["cost"] = None
    found["aot@0.05"]["cost"] = found["uniform@0.05"]["cost"] = {**COST, "tokens": 5.0}
    found["aot@0.1"]["questions"] = right_about(found["aot@0.1"], "9")  # one more than uniform
    return found


def rows_of(runs):
    return ranking(runs, [name for name in runs if "@" in name])


def test_the_ranking_goes_from_best_to_worst_of_each_retention(runs):
    rows = rows_of(runs)
    assert [r.setting.name for r in rows] == [
        "aot@0.1", "uniform@0.1", "random@0.1", "uniform@0.05", "aot@0.05"
    ]  # fmt: skip
    best, level, worst = rows[:3]
    assert best.to_first is None and best.overall == pytest.approx(81.25) and best.kept == 10
    assert best.relative == pytest.approx(81.25 / 90 * 100)
    assert level.to_first[1] == 0 and worst.to_first[1] < 0 and worst.to_full[1] < 0


def test_a_share_counts_only_when_every_method_was_asked(tmp_path):
    names = ["full", *methods_at(0.1), *methods_at(0.05)]
    for name in names:
        folder = tmp_path / name
        folder.mkdir()
        made = run(name, 5)
        write_json(folder / "result.json", {"header": made["header"], "cost": made["cost"]})
        write_records(folder / "questions.jsonl", made["questions"])
    sweep = replace(SWEEP, retentions=(0.1, 0.05))
    page = tmp_path / "page" / "results.md"
    write_exam(tmp_path, page, sweep)
    assert "### 10 % of the tokens" in page.read_text() and "### 5 % of the tokens" in page.read_text()
    (tmp_path / "evs@0.05" / "result.json").unlink()
    write_exam(tmp_path, page, sweep)
    assert "### 10 % of the tokens" in page.read_text() and "### 5 % of the tokens" not in page.read_text()
    (tmp_path / "left-out.txt").write_text("evs@0.05\tit has no frames\n")
    write_exam(tmp_path, page, sweep)
    assert "- evs@0.05: it has no frames" in page.read_text() and "### 5 % of the tokens" in page.read_text()


def test_the_verdict_says_first_level_or_behind(runs):
    rows = rows_of(runs)
    assert "is first (`uniform` is second)" in verdict(rows[:3])
    assert "behind the first, `uniform`" in verdict(rows[3:]) and "-10.0 points" in verdict(rows[3:])
    # now uniform is ahead by one question of one clip
    runs["uniform@0.1"]["questions"] = right_about(runs["uniform@0.1"], "9", "19")
    assert "statistically level with the first, `uniform`" in verdict(rows_of(runs)[:3])
    assert verdict([r for r in rows if r.setting.method != "aot"]) == ""


def test_the_verdict_names_the_aims_that_are_missed(runs):
    def said(retention):
        return verdict([row for row in rows_of(runs) if row.setting.retention == retention])

    assert "Aims missed: 97 % of the accuracy with all tokens**" in said(0.1)
    both = "Aims missed: 92 % of the accuracy with all tokens and at most 5 points behind in every family**"
    assert both in said(0.05)
    for name in ("aot@0.1", "aot@0.05"):
        runs[name]["questions"] = run(name, 9)["questions"]
    assert "missed" not in said(0.1) + said(0.05)


def test_the_section_the_csv_and_the_plot_hold_every_method(runs, tmp_path):
    rows = rows_of(runs)
    text = methods_section(rows, runs, {"frames@0.1": "it has no frames"}, PLOT)
    for part in ("### 10 % of the tokens", "### 5 %", "uniform", "random", "2.5", PLOT, "frames@0.1: it has no frames"):
        assert part in text
    lines = list(csv.DictReader(methods_csv(rows, runs).splitlines()))
    assert [line["method"] for line in lines] == ["full", "aot", "uniform", "random", "uniform", "aot"]
    assert float(lines[1]["overall"]) == 81.25 and float(lines[1]["motion"]) == 80 and lines[0]["kept"] == "100"
    accuracy_plot(rows, runs, tmp_path / PLOT)
    assert (tmp_path / PLOT).read_bytes()[:4] == b"\x89PNG"


def test_a_method_that_keeps_more_than_it_was_asked_for_is_marked_and_never_the_first(runs):
    runs["dycoke@0.1"] = run("dycoke@0.1", 10, cost={**COST, "tokens": 40.0})
    rows = [row for row in rows_of(runs) if row.setting.retention == 0.1]
    assert rows[0].setting.method == "dycoke" and not rows[0].equal and "`aot` keeps" in verdict(rows)
    assert "is first" in verdict(rows) and "| dycoke (more tokens) | 40.0 |" in methods_section(rows, runs, {}, PLOT)


def test_a_method_inside_the_language_model_is_labelled_and_never_the_first(runs):
    runs["fastv@0.1"] = run("fastv@0.1", 10, cost={**COST, "milliseconds": None, "extra_mib": None})
    rows = [row for row in rows_of(runs) if row.setting.retention == 0.1]
    assert rows[0].setting.inside and rows[0].to_first is not None and "is first" in verdict(rows)
    assert "| fastv (layer average) | 10.0 | 100.0 |" in methods_section(rows, runs, {}, PLOT)


def test_every_registered_method_sits_the_exam_or_says_why_not(tmp_path, capsys):
    page = tmp_path / "results.md"
    arguments = ["--model-path", str(TINY), "--questions", "4", "--seed", "7000", "--captioned", "0"]
    arguments += [
        "--output",
        str(tmp_path / "runs"),
        "--page",
        str(page),
        "--only",
        "methods",
        "inside",
        "--retention",
        "0.1",
    ]
    assert main(["methods", *arguments]) == 0
    said = capsys.readouterr()
    text = page.read_text()
    for method in aot.method_names():
        assert f"| {method} |" in text or f"{method}@0.1 was left out: " in said.err
    assert "fastv (layer average, share behind the last drop asked)" in text
    assert (tmp_path / "results-methods.csv").exists() and (tmp_path / PLOT).exists()
    told = {line.split(" was left out")[0] for line in said.err.splitlines() if " was left out: " in line}
    assert set(left_out(tmp_path / "runs")) == told
    assert main(["methods", *arguments, "--report"]) == 0
    assert page.read_text() == text and capsys.readouterr().out.split() == [str(page)]


def video(frames, side=12, width=32):
    """Features of two things that move over sixteen patches of background, calmer in the first half: (T, N, D) and
    maps (T, N)."""
    g = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.arange(side) // 3, torch.arange(side) // 3, indexing="ij")
    ground = torch.randn(16, width, generator=g)[(row * 4 + column).flatten()]
    ground += 0.3 * torch.randn(side * side, width, generator=g)
    unrest = torch.linspace(0.02, 0.4, frames)[:, None, None]
    features = ground + unrest * torch.randn(frames, side * side, width, generator=g)
    for thing, start in ((torch.randn(width, generator=g), 10), (torch.randn(width, generator=g), 70)):
        for t in range(8):
            features[t, [start + t, start + t + side]] = 2 * thing
    return features, *torch.rand(2, frames, side * side, generator=g)


def reduced(setting, frames):
    parsed = parse_setting(setting)
    config = parsed.config
    if config.num_anchors:
        config = config.replace(num_anchors=40)
    features, shallow, deep = video(frames)
    seen = perturb_input(VideoFeatures(features, (12, 12), shallow, deep), parsed.perturbation, 0)
    newline = torch.ones(32)
    # the embedded model's 12x12 tokens a frame
    more = {"newline": newline, "newline_position": "grid", "pool": None}
    result = aot.compress(seen.features, seen.shallow, seen.deep, config, **more)
    order = perturbed_order(result, parsed.perturbation, 0)
    return result.tokens if order is None else result.tokens[order]


@pytest.mark.parametrize("group", dict.fromkeys(a.group for a in ABLATIONS))
def test_every_variant_of_an_ablation_changes_something(group):
    base, *others = [a.setting(0.1) for a in ABLATIONS if a.group == group]
    assert others and base.endswith("@0.1")
    # in the paper's order, two frames a clip (16 frames) merge nothing, and four frames a clip are those of 32 frames
    whole = {frames: reduced(base, frames) for frames in (16, 32)}
    for other in others:
        changed = {frames: reduced(other, frames) for frames in whole}
        assert any(
            changed[frames].shape != tokens.shape or not torch.equal(changed[frames], tokens)
            for frames, tokens in whole.items()
        ), other


def test_the_ablations_are_compared_with_the_first_of_their_group():
    names = ["full", "paper@0.1", "paper@0.1,clips=dynamic", "aot@0.1,merge_strength=0"]
    runs = {name: run(name, right) for name, right in zip(names, (9, 6, 4, 5), strict=True)}
    text = ablation_section(runs, SWEEP, {"aot@0.1,change_power=0": "it was refused"})
    assert "| dynamic | 10.0 | 40.0 | -30.0 … -11.2 |" in text and "`paper@0.1,clips=dynamic`" in text
    assert "| none | 10.0 | 50.0 |  | " in text  # its base was not run
    assert "none: every token counts alike: it was refused" in text
    # a group of which the reference alone was asked compares nothing
    assert "| paper: anchors |" not in text
    unasked = text.rpartition("No variant was asked of these groups: ")[2]
    assert unasked.startswith("paper: anchors; paper: transport") and "paper: clips" not in unasked
