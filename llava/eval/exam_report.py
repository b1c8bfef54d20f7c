"""Writes docs/results.md from the replies that `llava.eval.evaluate` left behind."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from llava.eval.evaluate import DEFAULT_SETTINGS
from llava.eval.exam import guess_rate, make_exam
from llava.eval.questions import FAMILIES

BOTH = ("open", "choice")
LABELS = {"full": "all tokens", "blank": "all tokens, video blanked"}


def label(setting: str) -> str:
    """A setting as the tables print it."""
    if setting in LABELS:
        return LABELS[setting]
    method, _, retention = setting.partition("@")
    return f"{method} {100 * float(retention):g} %"


def scores(replies: list[dict], *, form: str | None = None, family: str | None = None) -> np.ndarray:
    """Scores of the replies of one form and family; of open answers and letters together when form is None."""
    forms = (form,) if form else BOTH
    return np.array([r["score"] for r in replies if r["form"] in forms and family in (None, r["family"])])


def interval(replies: list[dict], whole: list[dict], *, draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the difference to the uncompressed model, in points: paired bootstrap over clips.

    Questions about one clip share its tokens, so clips are drawn, not questions.
    """
    change = defaultdict(list)
    for ours, theirs in zip(replies, whole, strict=True):
        assert (ours["clip"], ours["form"], ours["question"]) == (theirs["clip"], theirs["form"], theirs["question"])
        if ours["form"] in BOTH:
            change[ours["clip"]].append(ours["score"] - theirs["score"])
    sums = np.array([sum(c) for c in change.values()])
    sizes = np.array([len(c) for c in change.values()])
    picks = np.random.default_rng(0).integers(len(sums), size=(draws, len(sums)))
    low, high = np.percentile(100 * sums[picks].sum(1) / sizes[picks].sum(1), [2.5, 97.5])
    return float(low), float(high)


def percent(values: np.ndarray) -> str:
    return f"{100 * values.mean():.1f}" if len(values) else "–"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its first column left-aligned."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def report(runs: dict[str, dict]) -> str:
    """The page, from setting name to what `evaluate` wrote; "full" must be among them."""
    whole = runs["full"]
    head = whole["header"]
    items = make_exam(head["questions"], seed=head["seed"])
    overall = scores(whole["replies"]).mean()
    summary, families = [], {"open": [], "choice": [], "likelihood": []}
    for setting, run in runs.items():
        replies = run["replies"]
        points = scores(replies)
        low, high = interval(replies, whole["replies"])
        summary.append([
            label(setting), percent(points), f"{100 * points.mean() / overall:.1f}",
            "" if setting == "full" else f"{low:+.1f} … {high:+.1f}",
            percent(scores(replies, form="open")), percent(scores(replies, form="choice")),
            percent(scores(replies, form="likelihood")), percent(scores(replies, form="caption")),
        ])  # fmt: skip
        for form, rows in families.items():
            rows.append([label(setting), *(percent(scores(replies, form=form, family=f)) for f in FAMILIES)])
    guesses = guess_rate(items)
    families["open"].append(["best guess without looking", *(f"{100 * guesses[f]:.1f}" for f in FAMILIES)])
    for form in ("choice", "likelihood"):
        families[form].append(["chance", *["25.0"] * len(FAMILIES)])
    counts = defaultdict(int)
    for item in items:
        counts[item.question.family] += 1
    return "\n\n".join([
        "# Results on the embedded model",
        "Written by `python -m llava.eval.exam_report` from the replies of `python -m llava.eval.evaluate`; "
        "do not edit by hand.",
        f"Model: checkpoints/aot-tiny (weights SHA-256 {head['weights'][:12]}…), greedy, {head['torch']} on CPU. "
        f"Exam: {len(items)} questions on {len({i.clip for i in items})} held-out clips, decoded from MP4, "
        f"{min(counts.values())} to {max(counts.values())} a family; each is asked openly and as multiple choice. "
        "Per cent right; *relative* is to all tokens; *difference* is its 95 % interval in points "
        "(paired bootstrap over clips). *Multiple choice* counts the letter that the model writes, *by likelihood* the "
        "option that it finds the likeliest open answer. Captions are scored by the F1 of the facts they state.",
        table(
            ["tokens", "both forms", "relative", "difference", "open", "multiple choice", "by likelihood", "captions"],
            summary,
        ),
        "## Open answers, by family",
        table(["tokens", *FAMILIES], families["open"]),
        "## Multiple choice, by family",
        table(["tokens", *FAMILIES], families["choice"]),
        "## Multiple choice by likelihood, by family",
        table(["tokens", *FAMILIES], families["likelihood"]),
    ]) + "\n"  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/exam"), help="folder of the replies")
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"))
    args = parser.parse_args(arguments)
    found = [json.loads(p.read_text()) for p in sorted(args.runs.glob("*.json"))]
    runs = {run["header"]["setting"]: run for run in found}
    if "full" not in runs:
        raise SystemExit(f"{args.runs} holds no replies under 'full'; run python -m llava.eval.evaluate first")
    order = [s for s in DEFAULT_SETTINGS if s in runs] + [s for s in runs if s not in DEFAULT_SETTINGS]
    runs = {s: runs[s] for s in order}
    mixed = {json.dumps([r["header"][k] for k in ("weights", "questions", "seed")]) for r in runs.values()}
    if len(mixed) > 1:
        raise SystemExit(f"{args.runs} mixes checkpoints or exams; keep one folder for each")
    args.output.write_text(report(runs))


if __name__ == "__main__":
    main()
