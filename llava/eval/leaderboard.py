"""`aot leaderboard`: results of the exam as files that anyone can check, and a page made from them.

An entry is a JSON file: one model under one setting, with every reply to the questions. Its scores are computed anew
from the replies whenever the page is written, so an entry whose figures do not follow from its replies is refused.
`docs/leaderboard/schema.json` says what is in it.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from aot_cli.main import entry
from aot_cli.parser import Parser
from aot_tiny.worlds import WORLDS
from llava.eval.embedded import embedded_checkpoint
from llava.eval.exam.evaluator import weights_hash
from llava.eval.exam.settings import parse_setting
from llava.eval.jsonl import LineError, write_json
from llava.eval.sweep import SweepError
from llava.eval.tables.exam import BOTH, exam_items, kept_share, read_runs
from llava.eval.tables.exam_page import LABELS

PAGE = Path(__file__).with_name("tables") / "leaderboard.html"


def add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("folders", nargs="*", type=Path, metavar="FOLDER", help="what `aot exam` wrote; none: check what is there")
    add("--model", metavar="NAME", help="what the model is called (default for the embedded one: aot-tiny)")
    add("--entries", type=Path, default=Path("docs/leaderboard"), metavar="DIR", help="default: docs/leaderboard")


def execute(options) -> int:
    """Adds the folders' runs, scores every entry again and writes the page; 0, or 2 after one sentence."""
    try:
        for folder in options.folders:
            for run in read_runs(folder).values():
                made = entry_of(run, options.model)
                exam = made["exam"]
                # under the name of its model, setting and exam
                words = (made["model"]["name"], made["setting"], exam["world"], exam["seed"], exam["questions"])
                stem = "_".join(re.sub(r"[^\w.@=+-]+", "-", str(word)) for word in words)
                options.entries.mkdir(parents=True, exist_ok=True)
                path = options.entries / f"{stem}.json"
                write_json(path, made)
                print(path)
        page = options.entries / "index.html"
        page.write_text(leaderboard_page(read_entries(options.entries)), encoding="utf-8")
        print(page)
    except (SweepError, LineError, OSError) as error:
        print(f"aot leaderboard: {error}", file=sys.stderr)
        return 2
    return 0


def entry_of(run: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
    """The entry of a run as `read_runs` gives it. Raises SweepError for a model that nobody has named."""
    head, setting = run["header"], parse_setting(run["header"]["setting"])
    changed = head.get("tower_dtype") or head.get("quantization")
    if model is None and (changed or head["weights"] != weights_hash(embedded_checkpoint())):
        raise SweepError("The runs are not of the embedded model as it is; say by --model NAME what it is called.")
    made = {
        "model": {"name": model or embedded_checkpoint().name, "weights": head["weights"]},
        "exam": {"world": head.get("world", "shapes"), "questions": head["questions"], "seed": head["seed"]},
        "setting": setting.name,
        "method": LABELS.get(setting.name, setting.method),
        "retention": setting.retention,
        "inside": setting.inside,
        "kept": _rounded(kept_share(run)),
        "config": run.get("effective"),
        "cost": run.get("cost"),
        "made_with": {"code": run.get("code"), "torch": head["torch"], "machine": run.get("machine")},
        "replies": {form: [r.reply for r in run["questions"] if r.task == form] for form in BOTH},
    }
    return {"scores": rescore(made), **made}


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """All entries of a folder, each scored again. Raises SweepError for one whose scores do not follow."""
    entries = []
    for path in sorted(folder.glob("*.json")):
        if path.name == "schema.json":
            continue
        try:
            made = json.loads(path.read_text(encoding="utf-8"))
            found = rescore(made)
            if found != made["scores"]:
                raise SweepError("its scores do not follow from its replies")
        except (ValueError, KeyError, TypeError) as error:
            raise SweepError(f"{path}: {error}; write it again with aot leaderboard FOLDER.") from error
        entries.append(made)
    return entries


def rescore(made: Mapping[str, Any]) -> dict[str, Any]:
    """Per cent right of an entry, from its replies alone: by form, both together, and both by family.

    Raises SweepError when there are not as many replies as questions, or no such world.
    """
    exam = made["exam"]
    if exam["world"] not in WORLDS:
        raise SweepError(f"there is no world {exam['world']!r}")
    world = WORLDS[exam["world"]]
    ask = world.questions
    # in the order in which they are asked: clip by clip
    items = sorted(exam_items(exam["questions"], exam["seed"], world), key=lambda item: item.clip)
    if any(len(made["replies"][form]) != len(items) for form in BOTH):
        raise SweepError(f"it needs {len(items)} replies of each form")
    marks = []  # (form, family, score)
    for form in BOTH:
        for item, said in zip(items, made["replies"][form], strict=True):
            right = ask.choice_correct(said, item.letter) if form == "choice" else world.score_open(said, item.question)
            marks.append((form, item.question.family, float(right)))

    def mean(which: str | None = None) -> float | None:
        """Per cent right of a form, a family, or everything."""
        return _rounded(100 * fmean(score for *kinds, score in marks if which is None or which in kinds))

    families = sorted({family for _, family, _ in marks})
    return {"both": mean(), **{form: mean(form) for form in BOTH}, "families": {name: mean(name) for name in families}}


def leaderboard_page(entries: Sequence[Mapping[str, Any]]) -> str:
    """The page: one HTML file without anything from elsewhere. Relative values are to all tokens of the same exam."""

    def key(made: Mapping[str, Any]) -> str:
        return json.dumps([made["model"], made["exam"]], sort_keys=True)

    whole = {key(made): made["scores"]["both"] for made in entries if made["setting"] == "full"}
    rows = []
    for made in sorted(entries, key=lambda made: -made["scores"]["both"]):
        reference, cost = whole.get(key(made)), made["cost"] or {}
        exam = made["exam"]
        rows.append({
            "model": made["model"]["name"],
            "exam": f"{exam['world']}, {exam['questions']} questions from clip {exam['seed']}",
            "method": made["method"],
            "share": made["retention"],
            "inside": made["inside"],
            "kept": 100.0 if made["retention"] is None else made["kept"],
            "tokens": cost.get("tokens"),
            "milliseconds": cost.get("milliseconds"),
            "machine": made["made_with"]["machine"],
            "relative": _rounded(100 * made["scores"]["both"] / reference) if reference else None,
            **{form: made["scores"][form] for form in ("both", *BOTH)},
            "families": made["scores"]["families"],
        })  # fmt: skip
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")
    return PAGE.read_text(encoding="utf-8").replace("/* rows */ []", data)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


main = entry("leaderboard")

if __name__ == "__main__":
    sys.exit(main())
