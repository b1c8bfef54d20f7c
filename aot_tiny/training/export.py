"""Turns a finished training run into a checkpoint: weights, tokenizer, log and curve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from aot_cli.parser import Parser
from aot_tiny.training.recipe import STAGES, new_model
from aot_tiny.training.train import WEIGHTS


def export(run: Path, output: Path, *, stage: str | None = None, average: Path | None = None) -> None:
    """Write the model of `stage` (the last one that is complete) to `output` in LLaVA-NeXT's layout.

    average: a checkpoint of the same shape, which the stage began with; the mean of both is written (a model soup,
    Wortsman et al., 2022), and its training's record stands before this one's. Raises SystemExit where there is no
    such checkpoint, or one of another shape.
    """
    done = [s for s in STAGES if STAGES[s].objective == "video" and (run / s / WEIGHTS).exists()]
    if not done:
        raise SystemExit(f"{run} holds no finished stage with a language model; run scripts/train_tiny.sh first")
    folder = run / (stage or done[-1])
    model, _ = new_model(folder / "tokenizer", STAGES[folder.name].world)
    weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    if average is not None:
        file = average / "model.safetensors"
        before = load_file(file) if file.exists() else {}
        learnt = dict(model.named_parameters())  # tied weights once
        if {name: value.shape for name, value in before.items()} != {n: value.shape for n, value in learnt.items()}:
            raise SystemExit(f"{average} is no checkpoint of this shape; name the one that the stage began with.")
        for name, value in learnt.items():
            value.data.lerp_(before[name].float(), 0.5)
    model.half().save_pretrained(output)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "tokenizer" / name, output / name)
    record = average / "training_log.json" if average else None
    logs = json.loads(record.read_text()) if record and record.exists() else {}
    for name in (s for s in STAGES if (run / s / "log.json").exists()):
        again = sum(name == entry.partition(",")[0] for entry in logs)
        logs[f"{name}, run {again + 1}" if again else name] = json.loads((run / name / "log.json").read_text())
    (output / "training_log.json").write_text(json.dumps(logs, indent=0))
    plot(logs, output / "training_curve.png")


def plot(logs: dict[str, list[dict]], path: Path) -> None:
    """Loss and accuracy on training batches, a panel for each stage that logs a loss; no picture where none does."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    losses = ((stage, [r for r in log if "loss" in r]) for stage, log in logs.items())
    with_loss = {stage: rows for stage, rows in losses if rows}
    if not with_loss:
        return
    figure, axes = plt.subplots(1, len(with_loss), figsize=(5 * len(with_loss), 3.5), squeeze=False)
    for axis, (stage, rows) in zip(axes[0], with_loss.items(), strict=True):
        steps = [r["step"] for r in rows]
        words = "token" in rows[0]  # a tower alone has none
        shown = ("token", "motion", "begin", "things") if words else ("color", "shape")
        for name in shown:
            axis.plot(steps, [r[name] for r in rows], label=f"accuracy: {name}")
        axis.set(title=f"stage {stage}", xlabel="step", ylim=(0, 1.02))
        twin = axis.twinx()
        twin.plot(steps, [r["loss"] for r in rows], color="0.6", label="loss")
        twin.set_ylabel("loss (grey)")
        axis.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def add_options(parser: Parser) -> None:
    parser.add_argument("--run", required=True, type=Path, metavar="DIR", help="folder of the stages' runs")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the checkpoint")
    parser.add_argument("--stage", help="other than the last complete one")
    average = "a checkpoint that the stage began with; the mean of both is written"
    parser.add_argument("--average", type=Path, metavar="DIR", help=average)


def execute(options) -> int:
    """Writes the checkpoint."""
    export(options.run, options.output, stage=options.stage, average=options.average)
    return 0
