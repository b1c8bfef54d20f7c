"""The section of all methods at equal token counts, and its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from aot_tiny.shapes.questions import FAMILIES
from llava.eval.exam.reduction import TIMED
from llava.eval.exam.settings import OWN_COUNTS
from llava.eval.markdown import markdown_table
from llava.eval.tables.exam_report import describe
from llava.eval.tables.standing import FORMS, Standing, between, overall

OURS = "aot"
AIMS = {0.1: 97, 0.05: 92}  # per cent of the accuracy with all tokens that the default is to keep
FAMILY_AIM = -5  # points, to the best method of each family
WHY = "[why](method.md#what-a-tenth-does-not-keep-and-why)"


def methods_section(rows: Sequence[Standing], runs: dict[str, dict], refused: dict[str, str]) -> str:
    """Markdown of all standings; runs must hold "full"."""
    parts = ["## Every method at equal token counts", _explain(rows, runs)]
    if "blank" in runs:
        parts.append(f"All tokens: {overall(runs['full']):.1f} % right; video blanked: {overall(runs['blank']):.1f} %.")
    parts.append("![Accuracy against the share of tokens kept](images/methods.png)")
    for retention in dict.fromkeys(row.setting.retention for row in rows):
        here = [row for row in rows if row.setting.retention == retention]
        parts += [f"### {100 * retention:g} % of the tokens", verdict(here), _summary(here)]
        parts += ["By family, open answers and letters together:", _families(here)]
    missing = [f"- {name}: {reason}" for name, reason in refused.items()]
    parts += ["Left out:", "\n".join(missing)] if missing else []
    return "\n\n".join(part for part in parts if part)


def name(row: Standing) -> str:
    """A method as the tables print it."""
    return title(row) + ("" if row.equal or row.inside else " (more tokens)")


def title(row: Standing) -> str:
    """A method's name, marked when its counts are of another kind."""
    if row.inside:
        behind = row.setting.config.options["counts"] == "last"
        return f"{row.setting.config.method} (layer average{', share behind the last drop asked' if behind else ''})"
    return f"{row.setting.method} (preset)" if row.setting.method in OWN_COUNTS else row.setting.method


def verdict(rows: Sequence[Standing]) -> str:
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
        low, high = ours.to_first
        level = "statistically level with" if low <= 0 <= high else "behind"
        text += f"{level} the first, `{first.setting.method}` ({between(low, high)} points)"
    gaps = {
        family: ours.families[family] - max(row.families[family] for row in equal)
        for family in FAMILIES
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


def _explain(rows: Sequence[Standing], runs: dict[str, dict]) -> str:
    machine = " and ".join(sorted({runs[row.setting.name].get("machine", "machine unknown") for row in rows}))
    text = (
        "Written by `python -m llava.eval.method_table`. " + describe(runs).partition(". ")[2] + " *Kept* is the "
        "share of the visual tokens that the method really let through; newline tokens come on top. *To all tokens* "
        "and *to the first* are 95 % intervals of the difference in points (paired bootstrap over clips), the first "
        "being the best at this share. *ms* is the method's own time on one "
        f"video after tower and projector (fastest of {TIMED}; {machine}), *MiB* the tensors it holds at once on top "
        "of its inputs."
    )
    codes = {run.get("code") for run in (runs[row.setting.name] for row in rows)}
    if len(codes) > 1:
        text += " The settings were measured with more than one state of `aot/`."
    return text


def _summary(rows: Sequence[Standing]) -> str:
    head = ["method", "kept", "both forms", "relative", "to all tokens", "to the first"]
    head += ["open", "multiple choice", "by likelihood", "captions", "ms", "MiB"]
    body = [
        [
            name(row), _number(row.kept), _number(row.overall), _number(row.relative), between(*row.to_full),
            between(*row.to_first) if row.to_first else "", *(_number(row.forms[form]) for form in FORMS),
            _number(row.cost and row.cost["milliseconds"]), _number(row.cost and row.cost["extra_mib"]),
        ]
        for row in rows
    ]  # fmt: skip
    return markdown_table(head, body)


def _families(rows: Sequence[Standing]) -> str:
    body = [[name(row), *(_number(row.families[family]) for family in FAMILIES)] for row in rows]
    return markdown_table(["method", *FAMILIES], body)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def methods_csv(rows: Sequence[Standing], runs: dict[str, dict]) -> str:
    """All figures of the standings, a line each, after one for all tokens."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([
        "method", "retention", "where", "kept", "newlines", "overall", "relative", "to_full_low", "to_full_high",
        "to_first_low", "to_first_high", *FORMS, *FAMILIES, "milliseconds", "extra_mib",
    ])  # fmt: skip
    writer.writerow(["full", 1, "", 100, "", f"{overall(runs['full']):.3f}", 100])
    for row in rows:
        cost = row.cost or {}
        figures = [
            row.kept, cost.get("newlines"), row.overall, row.relative, *row.to_full, *(row.to_first or ("", "")),
            *row.forms.values(), *row.families.values(), cost.get("milliseconds"), cost.get("extra_mib"),
        ]  # fmt: skip
        where = "inside" if row.inside else "before"
        writer.writerow([row.setting.method, row.setting.retention, where, *map(_plain, figures)])
    return out.getvalue()


def _plain(value: float | str | None) -> str:
    return "" if value in (None, "") else f"{value:.3f}"
