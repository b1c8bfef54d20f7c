"""What must be there before a campaign starts: lmms-eval, the models' ids, the tasks, the checkpoints."""

from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from llava.eval.campaign.identity import harness_folders, task_hash
from llava.eval.campaign.launch import Launch
from llava.eval.campaign.plan import checkpoint_folder
from llava.eval.campaign.published import check_published
from llava.eval.campaign.spec import Campaign, CampaignError


def check_installed(campaign: Campaign, launch: Launch) -> None:
    """Raises CampaignError, one sentence, for the first thing that is missing.

    Checkpoints must be here: results are filed under the hash of the weights.
    """
    check_published(campaign)
    if find_spec(launch.module) is None:
        raise CampaignError("lmms-eval is not installed here; install it with `pip install 'aot-video[eval]'`.")
    for model in campaign.models:
        if checkpoint_folder(model.checkpoint) is None:
            raise CampaignError(
                f"The checkpoint {model.checkpoint} of model {model.name!r} is not here; "
                "correct the path, or fetch it with scripts/download.sh."
            )
    if campaign.include_path and not Path(campaign.include_path).is_dir():
        raise CampaignError(f"There is no folder of tasks at {campaign.include_path}; correct include_path.")
    if launch.module != "lmms_eval":
        return
    known = shipped_ids()
    if any(model.id not in known for model in campaign.models):
        known |= added_ids()
    for model in campaign.models:
        if model.id not in known:
            ours = ", ".join(name for name in sorted(known) if name.startswith("llava_"))
            raise CampaignError(f"lmms-eval has no model id {model.id!r} here; use one of: {ours}.")
    for task in campaign.tasks:
        if task_hash(task.name, campaign.include_path) is None:
            raise CampaignError(f"lmms-eval has no task {task.name!r} here; check its name, or set include_path.")


def shipped_ids() -> set[str]:
    """lmms-eval's ids of the wrappers it ships."""
    return {path.stem for folder in harness_folders("models") for path in (folder / "simple").glob("*.py")}


def added_ids() -> set[str]:
    """lmms-eval's ids of the wrappers that installed packages add; imports lmms-eval to ask them."""
    import_module("lmms_eval.models")  # a plugin that is the first to import it meets itself half loaded
    found = set()
    for entry in metadata.entry_points(group="lmms_eval.models"):
        made = entry.load()
        made = made() if callable(made) else made
        found |= {manifest.model_id for manifest in (made if isinstance(made, (list, tuple)) else [made])}
    return found
