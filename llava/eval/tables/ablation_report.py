"""The section of the ablations, and its CSV."""

from __future__ import annotations

import csv
import io

from llava.eval.markdown import markdown_table
from llava.eval.tables.ablations import ABLATIONS, Ablation
from llava.eval.tables.standing import between, interval, overall, scores

COLUMNS = ("group", "variant", "setting", "kept", "overall", "open", "choice", "likelihood", "low", "high")


def figures(runs: dict[str, dict], retention: float) -> list[dict]:
    """A line of `COLUMNS` for every ablation that was run, in per cent and points.

    low, high: 95 % interval of the difference to the group's first variant; None for that one, or without it.
    """
    first: dict[str, Ablation] = {}
    lines = []
    for ablation in ABLATIONS:
        base, setting = first.setdefault(ablation.group, ablation).setting(retention), ablation.setting(retention)
        if setting not in runs:
            continue
        records, cost = runs[setting]["questions"], runs[setting]["cost"]
        compared = base in runs and setting != base
        low, high = interval(records, runs[base]["questions"]) if compared else (None, None)
        values = (100 * cost["tokens"] / cost["before"], overall(runs[setting]))
        values += tuple(100 * scores(records, form=form).mean() for form in ("open", "choice", "likelihood"))
        row = (ablation.group, ablation.label, setting, *values, low, high)
        lines.append(dict(zip(COLUMNS, row, strict=True)))
    return lines


def ablation_section(runs: dict[str, dict], retention: float, refused: dict[str, str]) -> str:
    """Markdown of all groups; the variants that could not run are named with the reason."""
    lines = figures(runs, retention)
    parts = [
        f"## Ablations at {100 * retention:g} %",
        "Written by `python -m llava.eval.method_table`, from the list in `llava/eval/tables/ablations.yaml`, on the "
        "exam above. *Difference* is the 95 % interval in points to the first line of the group (paired bootstrap over "
        "clips). `paper` and `released` have token counts of their own; their anchors are set so that the share kept "
        "comes nearest to the one asked, variant by variant.",
    ]
    for group in dict.fromkeys(line["group"] for line in lines):
        rows = [_row(line) for line in lines if line["group"] == group]
        head = [group, "kept", "both forms", "difference", "open", "multiple choice", "by likelihood", "setting"]
        parts.append(markdown_table(head, rows))
    missing = [f"- {a.group}, {a.label}: {refused[a.setting(retention)]}" for a in ABLATIONS
               if a.setting(retention) in refused]  # fmt: skip
    if missing:
        parts += ["Not here:", "\n".join(missing)]
    return "\n\n".join(parts)


def _row(line: dict) -> list[str]:
    difference = "" if line["low"] is None else between(line["low"], line["high"])
    shares = [f"{line[form]:.1f}" for form in ("open", "choice", "likelihood")]
    return [
        line["variant"],
        f"{line['kept']:.1f}",
        f"{line['overall']:.1f}",
        difference,
        *shares,
        f"`{line['setting']}`",
    ]


def ablations_csv(runs: dict[str, dict], retention: float) -> str:
    """All figures of the ablations, a line each."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in figures(runs, retention):
        writer.writerow({key: f"{v:.3f}" if isinstance(v, float) else v for key, v in line.items()})
    return out.getvalue()
