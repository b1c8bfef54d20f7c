"""A table as Markdown and CSV."""

from llava.eval.sweep import published
from llava.eval.tables.benchmarks import Row, Table
from llava.eval.tables.markdown import DASH, csv_table, interval, markdown_table, number

_FAILURES = 20  # reasons listed


def title(table: Table) -> str:
    """The table's title; what stands in for what is part of it."""
    parts = [table.sweep.title, table.sweep.note]
    if len(table.sweep.models) > 1:
        parts.append(table.model.name)
    return ": ".join(part for part in parts if part)


def markdown(table: Table, *, image: str | None = None) -> str:
    """The whole section of a table, beginning with its heading."""
    comparable = any(cell.published is not None for row in table.rows for cell in row.cells)
    parts = [f"# {title(table)}", _legend(table, comparable), _measured(table, comparable)]
    if image:
        parts.append(f"![{title(table)}]({image})")
    parts += [_published_only(table), _failures(table), _made_with(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _legend(table: Table, comparable: bool) -> str:
    lines = ["Per cent right; failed questions count as wrong and are listed."]
    if comparable:
        lines.append("Where a value is published it stands behind ours in brackets, with the difference in points.")
    lines.append(
        "*Relative* is the average as a percentage of our own run with all tokens, *95 %* its interval and *points* "
        "that of the difference (paired bootstrap over questions). *Tokens* is the share of visual tokens that reached "
        "the language model, newline tokens apart."
    )
    return " ".join(lines) + "".join(f"\n\n**{warning}**" for warning in table.warnings)


def _measured(table: Table, comparable: bool) -> str:
    timed = any(row.compress_ms is not None for row in table.rows)
    head = ["setting", "tokens, %", *(task.name for task in table.tasks), "average", "relative", "95 %", "points, 95 %"]
    told = any(row.published and row.published.get("relative") is not None for row in table.rows)
    head += ["published relative"] if told else []
    head += ["compression, ms"] if timed else []
    head.append("failed")
    rows = []
    for row in table.rows:
        reference = row.setting.aot is None
        line = [row.setting.name, number(row.tokens), *(_cell(cell) for cell in row.cells), number(row.average)]
        line += [
            number(row.relative),
            "" if reference else interval(row.relative_interval),
            "" if reference else interval(row.difference_interval, sign=True),
        ]
        line += [number((row.published or {}).get("relative"))] if told else []
        line += [number(row.compress_ms, 2)] if timed else []
        rows.append([*line, str(row.failed)])
    return markdown_table(head, rows)


def _cell(cell) -> str:
    if cell.published is None:
        return number(cell.measured)
    if cell.measured is None:
        return f"{DASH} ({number(cell.published)})"
    return f"{number(cell.measured)} ({number(cell.published)}, {number(cell.difference, sign=True)})"


def _published_only(table: Table) -> str:
    """The published rows as they were printed, with their sources."""
    rows = [row for row in table.rows if row.published]
    if not rows:
        return ""
    fields = [k for k in dict.fromkeys(k for row in rows for k in row.published) if k not in ("source", "note")]
    lines = [
        [row.setting.name, *(number(row.published.get(k), 2 if k in ("intra", "inter") else 1) for k in fields)]
        for row in rows
    ]
    named = sorted({published()["sources"][row.published["source"]] for row in rows})
    text = "## Published\n\nAs the authors print them, none measured here"
    if table.model.published:
        text += f"; the model is {table.model.published}"
    return f"{text}. Sources: {'; '.join(named)}.\n\n{markdown_table(['setting', *fields], lines)}"


def _failures(table: Table) -> str:
    total = sum(row.failed for row in table.rows)
    if not total:
        return ""
    told = ((m["setting"], m["identity"]["task"], reason) for m in table.manifests for reason in m["failures"])
    lines = [f"- {setting}, {task}: {reason}" for setting, task, reason in list(dict.fromkeys(told))[:_FAILURES]]
    return f"## Failed questions: {total}\n\n" + "\n".join(lines)


def _made_with(table: Table) -> str:
    """What the numbers were made with, from the manifests of all runs."""
    if not table.manifests:
        return ""

    def every(pick) -> str:
        return ", ".join(sorted({str(pick(m)) for m in table.manifests}))

    rows = [
        ["checkpoint", every(lambda m: m["identity"]["checkpoint"])],
        ["weights and config.json, SHA-256", every(lambda m: (m["identity"]["checkpoint_hash"] or "not local")[:16])],
        ["questions", every(lambda m: f"{m['identity']['task']} {m['questions']}")],
        ["commit", every(lambda m: _commit(m["commit"]))],
        *(
            [name, every(lambda m, name=name: m["versions"].get(name))]
            for name in ("lmms-eval", "torch", "transformers")
        ),
        ["machine", every(_machine)],
        ["seed", every(lambda m: m["identity"]["seed"])],
    ]
    return "## Made with\n\n" + markdown_table(["", ""], rows)


def _commit(commit: dict | None) -> str:
    if commit is None:
        return "unknown"
    return commit["revision"][:12] + (" with changes" if commit["changed"] else "")


def _machine(manifest: dict) -> str:
    hardware = manifest["hardware"]
    gpus = [gpu["name"] for gpu in hardware["gpus"]]
    what = f"{len(gpus)} × {gpus[0]}" if gpus else f"{hardware['cores']} cores of {hardware['processor']}"
    return what.replace(",", "")


CSV_HEAD = (
    "table", "model", "setting", "task", "tokens_percent", "measured", "published", "difference", "relative",
    "relative_low", "relative_high", "points_low", "points_high", "questions", "failed",
)  # fmt: skip


def as_csv(table: Table) -> str:
    """One line a setting and task, and one for the average; empty fields where nothing is known."""
    lines = []
    for row in table.rows:
        for task, cell in zip(table.tasks, row.cells, strict=True):
            values = [task.name, row.tokens, cell.measured, cell.published, cell.difference, *[None] * 5]
            lines.append(_line(table, row, [*values, cell.questions, cell.failed]))
        published = (row.published or {}).get("avg")
        difference = None if row.average is None or published is None else row.average - published
        ends = [end for i in (row.relative_interval, row.difference_interval) for end in (i and i.low, i and i.high)]
        values = ["average", row.tokens, row.average, published, difference, row.relative, *ends]
        lines.append(_line(table, row, [*values, sum(cell.questions for cell in row.cells), row.failed]))
    return csv_table(CSV_HEAD, lines)


def _line(table: Table, row: Row, values: list) -> list:
    numbers = ["" if v is None or v != v else round(v, 4) if isinstance(v, float) else v for v in values]
    return [table.sweep.table or table.sweep.name, table.model.name, row.setting.name, *numbers]
