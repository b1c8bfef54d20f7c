"""The same table on the embedded model over the project's own offline tasks, for machines without the checkpoints."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llava.eval.sweep import Model, Setting, Sweep, SweepError, Task, sweep_from
from llava.utils import shipped

ROOT = Path(__file__).resolve().parents[2]
TASKS = (Task("aot_clips_open"), Task("aot_clips_choice"))
TOWER_TOKENS = 729  # a frame of the towers that the published anchor counts were chosen for
_FRAMES = re.compile(r"\b(\d+) frames\b")


def embedded_checkpoint() -> Path:
    """The embedded model's folder. Raises SweepError when it is not there."""
    if (folder := shipped("checkpoints/aot-tiny")) is None:
        raise SweepError("The embedded model is not part of this installation; run this in a checkout.")
    return folder


def stand_in(sweep: Sweep, checkpoint: Path, *, limit: int | None = None) -> Sweep:
    """The sweep with the embedded model and tasks in the place of its own, and a title that says so.

    What is counted for large models is scaled: anchors by tokens of the tower's grid, frames by the number of frames
    the model was made for. Published values stay in sight; those of single benchmarks have no place any more.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    tower = config["mm_vision_config"]
    tokens = (tower["image_size"] // tower["patch_size"]) ** 2
    first = sweep.models[0]
    frames = config["mm_video_frames"] / first.args.get("max_frames_num", 32)
    settings = tuple(_scaled(setting, tokens / TOWER_TOKENS, frames) for setting in sweep.settings)
    model = Model(checkpoint.name, "llava_onevision_aot", str(checkpoint), {}, first.published)
    others = " and ".join(other.name for other in sweep.models)
    scaled = replace(
        sweep,
        name=f"{sweep.name}-embedded",
        note=f"on the embedded model {checkpoint.name} over procedural clips, not on {others} over the benchmarks",
        models=(model,),
        settings=settings,
        tasks=TASKS,
        limit=limit,
        include_path=str(ROOT / "lmms_eval_tasks"),
    )
    return sweep_from(asdict(scaled))


def _scaled(setting: Setting, anchors: float, frames: float) -> Setting:
    aot: dict[str, Any] | None = None if setting.aot is None else dict(setting.aot)
    if aot is not None and aot.get("preset") in ("released", "paper"):
        aot["num_anchors"] = max(1, round(aot.get("num_anchors", 126) * anchors))
    args = dict(setting.args)
    name = setting.name
    if "max_frames_num" in args:
        args["max_frames_num"] = max(1, round(args["max_frames_num"] * frames))
        name = _FRAMES.sub(f"{args['max_frames_num']} frames", name)
    return replace(setting, name=name, aot=aot, args=args, per_task={})
