"""Whether the exam can be believed: its own bars, each with the figure, printed whatever it is."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from llava.eval.exam.questions import chance_rate, guess_rate
from llava.eval.sweep import published
from llava.eval.tables.exam import items_of, mean_score, scores, world_of
from llava.eval.tables.markdown import markdown_table, number

FORM, FAMILY = 85, 70  # per cent right with all tokens
KEPT = (70, 92)  # per cent of that which a random tenth keeps
AGREEMENT = 0.6  # rank correlation of the methods with their published order
MODEL = "llava-onevision-7b"  # whose published values are taken
NOT_MEASURED = "not measured"
ERRORS = 1.96  # standard errors in which chance lies


@dataclass(frozen=True)
class Bar:
    """One bar: what is asked, what was measured in words, and whether it is met; None where it was not measured."""

    asked: str
    figure: str
    met: bool | None


def bars(runs: dict[str, dict]) -> list[Bar]:
    """The bars of the exam; runs by setting, "full" among them."""
    whole = runs["full"]["questions"]
    found = []
    # 1. what the model reads with all tokens
    for form, title in (("open", "in words"), ("choice", "by letter")):
        right = mean_score(whole, form=form)
        found.append(Bar(f"all tokens, {title}: {FORM} % or more", f"{number(right)} %", bool(right >= FORM)))
    asked = {record.group for record in whole if record.task == "open"}
    every = [family for family in world_of(runs).questions.FAMILIES if family in asked]
    families = {family: mean_score(whole, family=family) for family in every}
    worst = min(families, key=families.__getitem__)
    missed = sum(right < FAMILY for right in families.values())
    figure = f"{number(families[worst])} % in {worst}; {missed} of {len(families)} below"
    found.append(Bar(f"all tokens, every family: {FAMILY} % or more", figure, missed == 0))
    # 2. what it says without looking, and with a random tenth
    found += _blank(runs)
    if "random@0.1" in runs and (right := mean_score(whole)):
        kept = 100 * mean_score(runs["random@0.1"]["questions"]) / right
        tenth = f"{number(kept)} %", bool(KEPT[0] <= kept <= KEPT[1])
    else:
        tenth = NOT_MEASURED, None
    found.append(Bar(f"a random tenth keeps {KEPT[0]} to {KEPT[1]} % of it", *tenth))
    # 3. the order of the methods
    return [*found, _order(runs)]


def _blank(runs: dict[str, dict]) -> list[Bar]:
    """A blanked video: no better than the best guess in words, than chance by letter, but for the standard error."""
    titles = {"open": "blank, in words: no better than the best guess", "choice": "blank, by letter: at chance"}
    if "blank" not in runs:
        return [Bar(title, NOT_MEASURED, None) for title in titles.values()]
    items, records, found = items_of(runs), runs["blank"]["questions"], []
    known = {"open": guess_rate(items, world=world_of(runs)), "choice": chance_rate(items)}
    for form, title in titles.items():
        by_family = known[form]
        chance = float(np.mean([by_family[item.question.family] for item in items]))
        right = scores(records, form=form)
        margin = ERRORS * math.sqrt(chance * (1 - chance) / len(right))
        figure = f"{number(100 * right.mean())} %, for {number(100 * chance)} ± {number(100 * margin)}"
        found.append(Bar(title, figure, bool(right.mean() <= chance + margin)))
    return found


def _order(runs: dict[str, dict]) -> Bar:
    """The rank correlation of measured and published accuracy over all cells, and within each share."""
    asked = f"order of methods as published: Spearman {AGREEMENT} or more"
    cells = published_cells()
    both = {}
    for (method, share), value in cells.items():
        if (name := f"{method}@{share:g}") in runs:
            both[method, share] = mean_score(runs[name]["questions"]), value
    agreement = spearman(list(both.values()))
    if agreement is None:
        return Bar(asked, NOT_MEASURED, None)
    within = []
    for share in sorted({share for _, share in both}, reverse=True):
        here = [pair for (_, other), pair in both.items() if other == share]
        within.append(f"{100 * share:g} %: {number(spearman(here), 2)} of {len(here)}")
    figure = f"{number(agreement, 2)} over {len(both)} of {len(cells)} cells ({', '.join(within)})"
    return Bar(asked, figure, agreement >= AGREEMENT)


def published_cells() -> dict[tuple[str, float], float]:
    """Published accuracy relative to all tokens, in per cent, by method here and share; the mean where there are two.

    Only what enters the language model as a share of its own is taken, as `published.yaml` lists under `comparable`.
    """
    table = published()
    cells: dict[tuple[str, float], list[float]] = {}
    for section, rows in table["models"][MODEL]["sections"].items():
        if share := re.fullmatch(r"(\d+)%", section):
            for name, row in rows.items():
                if name in table["comparable"] and row.get("relative") is not None:
                    cells.setdefault((table["comparable"][name], int(share[1]) / 100), []).append(row["relative"])
    return {cell: float(np.mean(values)) for cell, values in cells.items()}


def spearman(pairs: list[tuple[float, float]]) -> float | None:
    """Rank correlation, equal values at their mean rank; None for fewer than three pairs or values that are all one."""
    if len(pairs) < 3:
        return None
    ranks = []
    for values in zip(*pairs, strict=True):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[place])
    if min(np.ptp(rank) for rank in ranks) == 0:
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def bars_section(runs: dict[str, dict]) -> str:
    """Markdown of the bars with their verdicts."""
    verdicts = {True: "pass", False: "**fail**", None: NOT_MEASURED}
    rows = [[bar.asked, bar.figure, verdicts[bar.met]] for bar in bars(runs)]
    return "\n\n".join([
        "## Whether the exam can be believed",
        "Written by `aot exam --report`, from all settings that were asked.\n"
        "Published values are those of LLaVA-OneVision-7B in `llava/eval/tables/published.yaml`, with their sources.\n"
        "They are averages over benchmarks, not the same ones for all. The correlation is of accuracies here with "
        "relative accuracies there, over all shares and then within each.",
        markdown_table(["bar", "figure", "verdict"], rows),
    ])  # fmt: skip
