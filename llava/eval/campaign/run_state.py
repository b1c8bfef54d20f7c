"""Whether a run is complete, from what it left in its folder."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunState:
    """complete: results for every question, failed ones counted. reason: of one of the failures."""

    complete: bool
    questions: int = 0
    failed: int = 0
    reason: str = ""


def run_state(folder: Path) -> RunState:
    """The state of a run's folder; a run without its result file has not completed."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return RunState(False)
    return RunState(True, result["questions"], result["failed"], next(iter(result["failures"]), ""))
