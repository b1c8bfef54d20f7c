"""The exam's sections of docs/results.md and their CSV files: the exam itself, every method, the ablations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import isnan

from llava.eval.exam.compress_clip import TIMED
from llava.eval.exam.questions import FORMS, chance_rate, guess_rate
from llava.eval.exam.settings import OWN_COUNTS, Ablation, ExamSweep, parse_setting
from llava.eval.statistics import Interval
from llava.eval.tables.exam import Ranked, items_of, mean_score, ranked, strata_of, world_of
from llava.eval.tables.markdown import DASH, csv_table, markdown_table, number

LABELS = {"full": "all tokens", "blank": "all tokens, video blanked"}
FORM_TITLES = {
    "open": "Open answers, by family",
    "choice": "Multiple choice, by family",
    "likelihood": "Multiple choice by likelihood, by family",
}
OURS = "aot"
AIMS = {0.1: 97, 0.05: 92}  # per cent of the accuracy with all tokens that the default is to keep
FAMILY_AIM = -5  # points, to the best method of each family
WHY = "[why](method.md#what-a-tenth-does-not-keep-and-why)"
COLUMNS = ("group", "variant", "setting", "kept", "overall", "open", "choice", "likelihood", "low", "high")


def label(setting: str) -> str:
    """A setting as the tables print it."""
    if setting in LABELS:
        return LABELS[setting]
    method, retention, changes = re.fullmatch(r"([^@]*)@([^,+]*),?(.*)", setting).groups()
    return f"{method} {100 * float(retention):g} %" + (f", {changes}" if changes else "")


def between(ends: Interval | None) -> str:
    """An interval in points; nothing for none, or for one that is unknown."""
    return "" if ends is None or isnan(ends.low) else "{:+.1f} … {:+.1f}".format(*ends)


# the columns of all tables of settings, by their titles
FIGURES: dict[str, Callable[[Ranked], str]] = {
    "kept": lambda row: number(row.kept),
    "both forms": lambda row: number(row.overall),
    "hard subset": lambda row: f"{row.hard[0]:.1f} of {row.hard[1]}" if row.hard else DASH,
    "relative": lambda row: number(row.relative),
    "to all tokens": lambda row: between(row.to_full),
    "to the first": lambda row: between(row.to_first),
    "difference": lambda row: between(row.to_first),
    "open": lambda row: number(row.forms["open"]),
    "multiple choice": lambda row: number(row.forms["choice"]),
    "by likelihood": lambda row: number(row.forms["likelihood"]),
    "captions": lambda row: number(row.forms["caption"]),
    "mIoU": lambda row: number(row.iou),
    "ms": lambda row: number(row.cost and row.cost["milliseconds"]),
    "MiB": lambda row: number(row.cost and row.cost["extra_mib"]),
    "setting": lambda row: f"`{row.setting.name}`",
}
ANSWERED = ("open", "multiple choice", "by likelihood")
EXAM = ("both forms", "hard subset", "relative", "difference", *ANSWERED, "captions", "mIoU")
METHODS = ("kept", *EXAM[:3], "to all tokens", "to the first", *EXAM[4:], "ms", "MiB")
ABLATIONS = ("kept", "both forms", "difference", *ANSWERED, "setting")


def figures_table(head: str, rows: Iterable[tuple[str, Ranked]], columns: Sequence[str]) -> str:
    """Markdown: a line a setting, whose name stands in the column `head`. columns: out of FIGURES."""
    return markdown_table([head, *columns], [[named, *(FIGURES[key](row) for key in columns)] for named, row in rows])


def exam_section(runs: dict[str, dict], shown: Sequence[str] | None = None) -> str:
    """The section, from runs by setting; "full" must be among them. shown: the settings in it."""
    items, families = items_of(runs), world_of(runs).questions.FAMILIES
    records = {name: runs[name]["questions"] for name in shown or runs}
    parts = ["## The exam", f"Written by `aot exam --report`. {_made_with(runs)}"]
    parts.append(figures_table("tokens", [(label(n), ranked(runs, parse_setting(n), "full")) for n in records], EXAM))

    def means(**which: str) -> list[str]:
        """A cell a setting."""
        return [number(mean_score(asked, **which)) for asked in records.values()]

    def table(head: Sequence[str], columns: list[list[str]], *more: list[str]) -> str:
        rows = zip(map(label, records), *columns, strict=True)
        return markdown_table(["tokens", *head], [*rows, *more])

    guesses, chances = guess_rate(items, world=world_of(runs)), chance_rate(items)
    for form, title in FORM_TITLES.items():
        said, known = ("best guess without looking", guesses) if form == "open" else ("chance", chances)
        blind = [said, *(number(100 * known[family] if family in known else None) for family in families)]
        columns = [means(form=form, family=family) for family in families]
        parts += [f"### {title}", table(families, columns, blind)]
    for stratum, values in strata_of(runs["full"]["questions"]).items():
        columns = [means(**{stratum: value}) for value in values]
        parts += [f"### Both forms, by {stratum}", table(values, columns)]
    return "\n\n".join(parts)


def _made_with(runs: dict[str, dict]) -> str:
    """Model, exam and measures in words."""
    head, items = runs["full"]["header"], items_of(runs)
    counts = sorted(set(Counter(item.question.family for item in items).values()))
    return (
        f"Model: weights SHA-256 {head['weights'][:12]}…, greedy, torch {head['torch']}. "
        f"Exam: world {head.get('world', 'shapes')}, {len(items)} questions on {len({i.clip for i in items})} held-out "
        f"clips, decoded from MP4, {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} a family. "
        "Each is asked openly and as multiple choice.\n\n"
        "Figures are per cent right.\n*Relative* is to all tokens.\n"
        "*Difference* is its 95 % interval in points (paired bootstrap over clips).\n"
        "*Multiple choice* counts the letter that the model writes.\n"
        "*By likelihood* counts the option that it finds the likeliest open answer.\n"
        "Captions are scored by the F1 of the facts they state.\n"
        "*Hard subset* counts the questions that all tokens get right and `pool`, plain down-sampling, at the same "
        "share gets wrong (the definition of VTC-Bench, arXiv 2510.07143). *Of* says how many. "
        "`pool` itself has none of them right.\n"
        "*mIoU* is the mean overlap of the intervals said in grounding. One of 0.5 or more counts as right."
    )


def methods_section(rows: Sequence[Ranked], runs: dict[str, dict], refused: dict[str, str], plot: str) -> str:
    """Markdown of the ranking; runs must hold "full". plot: where the page finds the picture."""
    parts = ["## Every method at equal token counts", _explain(rows, runs)]
    if "blank" in runs:
        right = [mean_score(runs[asked]["questions"]) for asked in ("full", "blank")]
        parts.append("All tokens: {:.1f} % right, video blanked: {:.1f} %.".format(*right))
    parts.append(f"![Accuracy against the share of tokens kept]({plot})")
    for retention in dict.fromkeys(row.setting.retention for row in rows):
        here = [row for row in rows if row.setting.retention == retention]
        parts += [f"### {100 * retention:g} % of the tokens", verdict(here)]
        parts.append(figures_table("method", [(name(row), row) for row in here], METHODS))
        families = [[name(row), *map(number, row.families.values())] for row in here]
        parts.append("By family, open answers and letters together:")
        parts.append(markdown_table(["method", *here[0].families], families))
        for stratum in dict.fromkeys(stratum for stratum, _ in here[0].strata):
            places = [place for place in here[0].strata if place[0] == stratum]
            rows_of = [[name(row), *(number(row.strata[place]) for place in places)] for row in here]
            parts += [f"By {stratum}:", markdown_table(["method", *(value for _, value in places)], rows_of)]
    missing = [
        f"- {', '.join(name for name in refused if refused[name] == reason)}: {reason}"
        for reason in dict.fromkeys(refused.values())
    ]
    parts += ["Left out:", "\n".join(missing)] if missing else []
    return "\n\n".join(part for part in parts if part)


def name(row: Ranked) -> str:
    """A method as the tables print it."""
    return title(row) + ("" if row.equal or row.setting.inside else " (more tokens)")


def title(row: Ranked) -> str:
    """A method's name, marked when its counts are of another kind."""
    if row.setting.inside:
        behind = row.setting.config.options["counts"] == "last"
        return f"{row.setting.config.method} (layer average{', share behind the last drop asked' if behind else ''})"
    return f"{row.setting.method} (preset)" if row.setting.method in OWN_COUNTS else row.setting.method


def verdict(rows: Sequence[Ranked]) -> str:
    """Where the default of this project stands at one retention, in a sentence or two; "" when it was not run."""
    equal = [row for row in rows if row.equal]
    ours = next((row for row in equal if row.setting.method == OURS), None)
    if ours is None:
        return ""
    first = equal[0]
    text = f"`{OURS}` keeps {ours.relative:.1f} % of the accuracy with all tokens and is "
    if ours is first:
        text += "first" + (f" (`{equal[1].setting.method}` is second)" if len(equal) > 1 else "")
    else:
        level = "behind" if ours.to_first.high < 0 else "statistically level with"
        text += f"{level} the first, `{first.setting.method}` ({between(ours.to_first)} points)"
    gaps = {
        family: ours.families[family] - max(row.families[family] for row in equal)
        for family in ours.families
        if ours.families[family] is not None
    }
    worst = min(gaps, key=gaps.get)
    text += f". Its widest gap to the best method of a family: {gaps[worst]:+.1f} points, in {worst}."
    missed = []
    aim = AIMS.get(ours.setting.retention)
    if aim is not None and ours.relative < aim:
        missed.append(f"{aim} % of the accuracy with all tokens")
    if aim is not None and gaps[worst] < FAMILY_AIM:
        missed.append(f"at most {-FAMILY_AIM} points behind in every family")
    return text + (f" **Aims missed: {' and '.join(missed)}** ({WHY})." if missed else "")


def _explain(rows: Sequence[Ranked], runs: dict[str, dict]) -> str:
    machine = " and ".join(sorted({runs[row.setting.name].get("machine", "machine unknown") for row in rows}))
    text = (
        f"Written by `aot exam methods --report`. {_made_with(runs)}\n\n"
        "*Kept* is the share of the visual tokens that the method really let through. Newline tokens come on top.\n"
        "*To all tokens* and *to the first* are 95 % intervals of the difference in points (paired bootstrap over "
        "clips). The first is the best at this share.\n"
        "*ms* is the method's own time on one video after tower and projector "
        f"(fastest of {TIMED}, {machine}).\n"
        "*MiB* are the tensors it holds at once on top of its inputs."
    )
    codes = {run.get("code") for run in (runs[row.setting.name] for row in rows)}
    if len(codes) > 1:
        text += "\nThe settings were measured with more than one state of `aot/`."
    return text


def methods_csv(rows: Sequence[Ranked], runs: dict[str, dict]) -> str:
    """All figures of the ranking, a line each, after one for all tokens."""
    head = [
        "method", "retention", "where", "kept", "newlines", "overall", "relative", "to_full_low", "to_full_high",
        "to_first_low", "to_first_high", *FORMS, *world_of(runs).questions.FAMILIES, "milliseconds", "extra_mib",
        "hard", "hard_questions", "iou", *(": ".join(place) for place in (rows[0].strata if rows else ())),
    ]  # fmt: skip
    lines = [["full", 1, "", 100, "", f"{mean_score(runs['full']['questions']):.3f}", 100]]
    for row in rows:
        cost = row.cost or {}
        figures = [
            row.kept, cost.get("newlines"), row.overall, row.relative, *row.to_full, *(row.to_first or ("", "")),
            *row.forms.values(), *row.families.values(), cost.get("milliseconds"), cost.get("extra_mib"),
            *(row.hard or (None, None)), row.iou, *row.strata.values(),
        ]  # fmt: skip
        where = "inside" if row.setting.inside else "before"
        plain = ["" if value in (None, "") else f"{value:.3f}" for value in figures]
        lines.append([row.setting.method, row.setting.retention, where, *plain])
    return csv_table(head, lines)


def ablation_rows(runs: dict[str, dict], sweep: ExamSweep) -> list[tuple[Ablation, Ranked]]:
    """The ablations that were run. Their `to_first` is to the group's first variant, None where that was not run."""
    first: dict[str, str] = {}
    rows = []
    for ablation in sweep.ablations:
        setting = ablation.setting(sweep.ablations_at)
        base = first.setdefault(ablation.group, setting)
        if setting in runs:
            rows.append((ablation, ranked(runs, parse_setting(setting), base if base in runs else None)))
    return rows


def ablation_section(runs: dict[str, dict], sweep: ExamSweep, refused: dict[str, str]) -> str:
    """Markdown of the groups of which a variant was asked; the others are named, and what could not run, with why."""
    lines, unasked = ablation_rows(runs, sweep), []
    parts = [
        f"## Ablations at {100 * sweep.ablations_at:g} %",
        "Written by `aot exam methods --report`, from the list in `llava/eval/sweeps/methods.yaml`, on the "
        "exam above.\n\n"
        "*Difference* is the 95 % interval in points to the first line of the group (paired bootstrap over clips).\n"
        "`paper` and `released` have token counts of their own. Variant by variant, their anchors are set so that the "
        "share kept comes nearest to the one asked.",
    ]
    for group in dict.fromkeys(ablation.group for ablation in sweep.ablations):
        reference, *_ = (ablation for ablation in sweep.ablations if ablation.group == group)
        rows = [(ablation, row) for ablation, row in lines if ablation.group == group]
        if all(ablation is reference for ablation, _ in rows):
            unasked.append(group)
        else:
            parts.append(figures_table(group, [(ablation.label, row) for ablation, row in rows], ABLATIONS))
    asked = [(a, a.setting(sweep.ablations_at)) for a in sweep.ablations]
    missing = [f"- {a.group}, {a.label}: {refused[setting]}" for a, setting in asked if setting in refused]
    if missing:
        parts += ["Not here:", "\n".join(missing)]
    if unasked:
        parts.append(f"No variant was asked of these groups: {'; '.join(unasked)}.")
    return "\n\n".join(parts)


def ablations_csv(runs: dict[str, dict], sweep: ExamSweep) -> str:
    """All figures of the ablations, a line each."""
    lines = []
    for ablation, row in ablation_rows(runs, sweep):
        figures = [row.kept, row.overall, *(row.forms[form] for form in FORMS[:3]), *(row.to_first or ())]
        words = [ablation.group, ablation.label, row.setting.name]
        lines.append([*words, *(f"{value:.3f}" for value in figures), *([] if row.to_first else ["", ""])])
    return csv_table(COLUMNS, lines)
