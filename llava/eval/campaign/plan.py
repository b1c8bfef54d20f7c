"""The runs of a campaign: one for each model, setting and task, in a folder named by what its result depends on."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava.eval.campaign.identity import checkpoint_hash, digest, task_hash
from llava.eval.campaign.manifest import versions
from llava.eval.campaign.spec import Campaign, Model, Setting, Task, effective


@dataclass(frozen=True)
class Run:
    """One task under one setting by one model.

    identity: everything the replies depend on; runs of other campaigns with an equal one share the folder. seed and
    limit as in the campaign.
    """

    model: Model
    setting: Setting
    task: Task
    identity: dict[str, Any]
    folder: Path
    seed: int
    limit: int | None
    include_path: str | None

    @property
    def name(self) -> str:
        """The run as messages call it."""
        return f"{self.model.name}, {self.setting.name}, {self.task.name}"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def arguments(self) -> dict[str, Any]:
        """The wrapper's arguments of this setting, the method's settings apart."""
        return {**self.model.args, **self.setting.args}


def checkpoint_folder(name: str) -> Path | None:
    """Where a checkpoint lies: the folder itself, or the snapshot of a hub name in the local cache."""
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/")):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def make_plan(campaign: Campaign, output: Path) -> list[Run]:
    """All runs, model by model and task by task, so that what is cached of a task's videos is still warm."""
    output = output.resolve()
    runs = []
    for model in campaign.models:
        folder = checkpoint_folder(model.checkpoint)
        weights = checkpoint_hash(str(folder), cache=output / "hashes.json") if folder else None
        for task in campaign.tasks:
            described = task_hash(task.name, campaign.include_path)
            for setting in campaign.settings:
                config = effective(setting, task)
                identity = {
                    "model": model.id,
                    "checkpoint": model.checkpoint if weights is None else Path(model.checkpoint).name,
                    "checkpoint_hash": weights,
                    "arguments": {**model.args, **setting.args},
                    "aot": config and config.to_dict(),
                    "task": task.name,
                    "task_hash": described,
                    "lmms_eval": versions()["lmms-eval"],
                    "seed": campaign.seed,
                    "limit": campaign.limit,
                }
                name = f"{task.name}-{digest(identity)[:12]}"
                run = Run(
                    model, setting, task, identity, output / "runs" / name,
                    campaign.seed, campaign.limit, campaign.include_path,
                )  # fmt: skip
                runs.append(run)
    return runs


def write_plan(campaign: Campaign, runs: list[Run], output: Path) -> Path:
    """Leaves `campaign.json` in output/NAME: the campaign and where its runs are. Returns that folder."""
    folder = output / campaign.name
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "model": run.model.name,
            "setting": run.setting.name,
            "task": run.task.name,
            "folder": f"../runs/{run.folder.name}",
        }
        for run in runs
    ]
    write_json(folder / "campaign.json", {"campaign": campaign.to_dict(), "runs": rows})
    return folder


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def with_limit(campaign: Campaign, limit: int | None) -> Campaign:
    """The campaign with another number of questions a task; None leaves it."""
    return campaign if limit is None else replace(campaign, limit=limit)
