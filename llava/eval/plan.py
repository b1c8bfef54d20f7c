"""The runs of a sweep: one for each model, setting and task, in a folder named by what its result depends on."""

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llava.eval.jsonl import write_json
from llava.eval.provenance import checkpoint_folder, checkpoint_hash, digest, task_hash
from llava.eval.sweep import Model, Setting, Sweep, SweepError, Task, check_published, effective
from llava.utils import versions


@dataclass(frozen=True)
class Run:
    """One task under one setting by one model.

    identity: everything the replies depend on; runs of other sweeps with an equal one share the folder.
    """

    sweep: Sweep
    model: Model
    setting: Setting
    task: Task
    identity: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """The run as messages call it."""
        return f"{self.model.name}, {self.setting.name}, {self.task.name}"

    @property
    def store(self) -> Path:
        return self.folder / "store"


def read_result(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run's folder; None where it has not completed, or what it left cannot be read."""
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def make_plan(sweep: Sweep, output: Path) -> list[Run]:
    """All runs, model by model and task by task, so that what is cached of a task's videos is still warm."""
    output = output.resolve()
    runs = []
    for model in sweep.models:
        folder = checkpoint_folder(model.checkpoint)
        weights = checkpoint_hash(folder, output / "hashes.json") if folder else None
        for task in sweep.tasks:
            described = task_hash(task.name, sweep.include_path)
            for setting in sweep.settings:
                config = effective(setting, task)
                identity = {
                    "model": model.id,
                    "checkpoint": model.checkpoint if weights is None else Path(model.checkpoint).name,
                    "checkpoint_hash": weights,
                    "arguments": {**model.args, **setting.args},
                    "aot": config and config.to_dict(),
                    "task": task.name,
                    "task_hash": described,
                    "lmms_eval": versions(("lmms-eval",))["lmms-eval"],
                    "seed": sweep.seed,
                    "limit": sweep.limit,
                }
                name = f"{task.name}-{digest(identity)[:12]}"
                runs.append(Run(sweep, model, setting, task, identity, output / "runs" / name))
    return runs


def write_plan(sweep: Sweep, runs: list[Run], output: Path) -> Path:
    """Leaves `sweep.json` in output/NAME: the sweep and where its runs are. Returns that folder."""
    folder = output / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"model": r.model.name, "setting": r.setting.name, "task": r.task.name, "folder": f"../runs/{r.folder.name}"}
        for r in runs
    ]
    write_json(folder / "sweep.json", {"sweep": asdict(sweep), "runs": rows})
    return folder


def check_installed(sweep: Sweep, module: str = "lmms_eval") -> None:
    """Raises SweepError, one sentence, for the first thing that is missing.

    module: what stands for lmms-eval. Checkpoints must be here: results are filed under the hash of the weights.
    """
    check_published(sweep)
    if find_spec(module) is None:
        raise SweepError(
            "lmms-eval is not installed here; install what it needs with `pip install 'aot-video[eval]'`, and then "
            "itself with `pip install --no-deps lmms-eval==0.7.3`."
        )
    for model in sweep.models:
        if checkpoint_folder(model.checkpoint) is None:
            raise SweepError(
                f"The checkpoint {model.checkpoint} of model {model.name!r} is not here; "
                "correct the path, or fetch it with scripts/download.sh."
            )
    if sweep.include_path and not Path(sweep.include_path).is_dir():
        raise SweepError(f"There is no folder of tasks at {sweep.include_path}; correct include_path.")
    if module != "lmms_eval":
        return
    known = import_module("lmms_eval.models").list_available_models(include_aliases=True)
    for model in sweep.models:
        if model.id not in known:
            ours = ", ".join(name for name in sorted(known) if name.startswith("llava_"))
            raise SweepError(f"lmms-eval has no model id {model.id!r} here; use one of: {ours}.")
    for task in sweep.tasks:
        if task_hash(task.name, sweep.include_path) is None:
            raise SweepError(f"lmms-eval has no task {task.name!r} here; check its name, or set include_path.")
