"""The Trainer of transformers, with what conversations need: bad samples, grouping by length, rates, and the exam."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

from llava.train.conversations import DataError
from llava.train.exam import TrainingExam

SKIPPED = "skipped.jsonl"


class LlavaTrainer(Trainer):
    """Counts samples that could not be read, groups by length, gives projector and tower rates of their own, and
    evaluates by the exam that it is given as `eval_dataset`.

    Raises DataError when more than `max_unreadable` of the data cannot be read.
    """

    def __init__(self, *args, max_unreadable: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_unreadable, self.skipped = max_unreadable, read_skipped(Path(self.args.output_dir))

    def compute_loss(self, model, inputs, *args, **kwargs):
        new = {name: reason for name, reason in inputs.pop("skipped") if name not in self.skipped}
        if new:  # into the file at once: a kill loses none, and all ranks append to it
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / SKIPPED).open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(entry) + "\n" for entry in new.items()))
            self.skipped = read_skipped(folder)
        if len(self.skipped) > self.max_unreadable * len(self.train_dataset):
            name, reason = next(iter(self.skipped.items()))
            raise DataError(
                f"{len(self.skipped)} of {len(self.train_dataset)} samples cannot be read, more than max_unreadable "
                f"{self.max_unreadable:g} allows; the first is {name}: {reason}"
            )
        return super().compute_loss(model, inputs, *args, **kwargs)

    def evaluate(self, eval_dataset: TrainingExam | None = None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """Sits the exam, on every rank the same; shares of right answers are logged by form. Returns them."""
        with self.accelerator.autocast():
            scores = (eval_dataset or self.eval_dataset).scores()
        metrics = {f"{metric_key_prefix}_{form}": round(score, 4) for form, score in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, *args):
        lengths = self.train_dataset.lengths if self.args.group_by_modality_length else None
        batch = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        return EpochSampler(self, len(self.train_dataset), batch=batch, lengths=lengths)

    def create_optimizer(self, *args):
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(*args)
        for part, rate in (("mm_projector", self.args.mm_projector_lr), ("vision_tower", self.args.mm_vision_tower_lr)):
            own = {id(parameter) for name, parameter in self.model.named_parameters() if part in name and rate}
            for group in list(optimizer.param_groups):
                taken = [parameter for parameter in group["params"] if id(parameter) in own]
                if taken:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
                    optimizer.add_param_group({**group, "params": taken, "lr": rate})
        return optimizer


class EpochSampler(Sampler):
    """Indices in an order drawn for each epoch; a run taken up in the middle of one finds the order it had.

    It asks the trainer for the epoch: accelerate does not tell every sampler, and a generator that goes on from epoch
    to epoch would begin anew. lengths: of the samples, to have those of like length together in a batch.
    """

    def __init__(self, trainer: Trainer, samples: int, *, batch: int, lengths: list[int] | None):
        self.trainer, self.samples, self.batch, self.lengths = trainer, samples, batch, lengths

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        epoch = int(self.trainer.state.epoch or 0)
        generator = torch.Generator().manual_seed(self.trainer.args.seed + epoch)
        if self.lengths is None:
            return iter(torch.randperm(self.samples, generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=generator))


def read_skipped(folder: Path) -> dict[str, str]:
    """Reasons by name of the samples that a run could not read, by all ranks and since its first start."""
    file, found = folder / SKIPPED, {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
        with suppress(ValueError, TypeError):  # the last line of a process that was killed
            name, reason = json.loads(line)
            found[name] = reason
    return found


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint in a run's folder that is whole: its trainer_state.json is written last."""
    states = [state for state in folder.glob("checkpoint-*/trainer_state.json") if state.stat().st_size]
    last = max(states, key=lambda state: int(state.parent.name.split("-")[1]), default=None)
    return last and os.fspath(last.parent)
