"""Published accuracies to stand beside measured ones, with their sources; nothing in them was measured here."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from llava.eval.sweep.spec import Model, Setting, Sweep, SweepError, Task

_FILE = Path(__file__).parent / "data" / "published.json"


@lru_cache
def published() -> dict[str, Any]:
    """The whole file: `sources`, and under `models` the sections and rows of each model."""
    return json.loads(_FILE.read_text(encoding="utf-8"))


def published_row(model: Model, setting: Setting) -> dict[str, Any] | None:
    """The published values of a setting, by benchmark, with `avg`, `relative` and `source`; None when it names none.

    Raises SweepError for a model, section or row that is not there.
    """
    if model.published is None or setting.published is None:
        return None
    place: Any = published()["models"]
    for name in (model.published, "sections", *setting.published):
        if name not in place:
            known = ", ".join(place)
            raise SweepError(f"Setting {setting.name!r}: there is no published {name!r}; known are: {known}.")
        place = place[name]
    return place


def published_value(row: dict[str, Any] | None, task: Task) -> float | None:
    """The published accuracy on a task in percent, where there is one."""
    return None if row is None or task.published is None else row.get(task.published)


def check_published(sweep: Sweep) -> None:
    """Raises SweepError when the sweep names published values that are not there."""
    for model in sweep.models:
        for setting in sweep.settings:
            row = published_row(model, setting)
            if row is not None and len(setting.published) != 2:
                raise SweepError(f"Setting {setting.name!r}: published takes a section and a row.")


def source(row: dict[str, Any]) -> str:
    """Where a row was published, in words."""
    return published()["sources"][row["source"]]
