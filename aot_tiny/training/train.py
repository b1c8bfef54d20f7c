"""Trains aot-tiny, a stage a call: `aot train-tiny --stage tower --init checkpoints/aot-tiny --output runs/film/tower`.

The stages are in recipe.py. A run leaves checkpoints in its folder and, called again, goes on from the last one.
Launch with torchrun, accelerate or deepspeed as usual, and the processes share the clips of a step;
`--deepspeed FILE` names a ZeRO configuration.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import sys
import timeit
from pathlib import Path

import torch
from accelerate import PartialState
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments, set_seed

from aot_cli.main import entry
from aot_cli.parser import Parser
from aot_tiny.film.questions import LETTERS
from aot_tiny.training.data import FrameLabels
from aot_tiny.training.muon import Muon
from aot_tiny.training.objective import VideoObjective
from aot_tiny.training.packing import ClipConversations, collate
from aot_tiny.training.recipe import GEOMETRY, PATCH, SIZE, STAGES, TRACKED_LAYER, Stage, new_model
from aot_tiny.training.tokenizer import save_tokenizer
from aot_tiny.training.tower import DenseTower
from aot_tiny.worlds import WORLDS
from llava.eval.jsonl import write_whole
from llava.train.trainer import last_checkpoint

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
WEIGHTS = "objective.pt"
CLIPS_A_SEED = 100_000  # more than a stage draws
PASS_MEMORY = 2**23  # bytes of the tower's activations: they stay in a processor's cache


class StageTrainer(Trainer):
    """A Trainer that logs what the objective returns beside its loss."""

    def __init__(self, *args, stage: Stage, **kwargs):
        super().__init__(*args, **kwargs)
        self.stage, self.seen = stage, {}

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        out = model(**inputs)
        for name, value in out.items():
            self.seen.setdefault(name, []).append(value.detach())
        return (out["loss"], out) if return_outputs else out["loss"]

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs |= {k: round(torch.stack(v).nanmean().item(), 4) for k, v in self.seen.items() if k != "loss"}
            self.seen = {}
        super().log(logs, *args, **kwargs)

    def create_optimizer(self, *_):
        if self.optimizer is None:
            trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
            matrices = [p for n, p in trained if p.ndim == 2 and ".layers." in n]
            others = [p for n, p in trained if p.ndim != 2 or ".layers." not in n]
            groups = [
                {"params": matrices, "weight_decay": 0.05, "muon": True},
                {"params": others},
            ]
            dtype = torch.bfloat16 if self.args.bf16 else torch.float32
            self.optimizer = Muon(groups, lr=self.args.learning_rate, dtype=dtype)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Linear warm-up, flat, then linear decay."""
        if self.lr_scheduler is None:
            warm, fall = self.stage.warmup * num_training_steps, self.stage.decay * num_training_steps
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: min(1.0, (step + 1) / max(warm, 1), (num_training_steps - step) / max(fall, 1)),
            )
        return self.lr_scheduler

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)  # samples are drawn from seeds; a batch's belong together

    # the objective shares tensors (tied embeddings), which safetensors refuses: state_dict files instead
    def _save(self, output_dir=None, state_dict=None):
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state_dict or self.model.state_dict(), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        weights = torch.load(Path(resume_from_checkpoint) / WEIGHTS, map_location="cpu", weights_only=True)
        (model or self.model).load_state_dict(weights)


def build(stage: Stage, tokenizer_folder: Path):
    """The objective of a stage with random weights, its dataset and its collator."""
    model, tokenizer = new_model(tokenizer_folder, stage.world)
    clips, grid = stage.steps * stage.batch, SIZE // PATCH
    if stage.objective == "tower":
        width = GEOMETRY["mm_vision_config"]["hidden_size"]
        tower = DenseTower(model.get_vision_tower(), width, grid, places=stage.places, distilling=stage.distilling)
        return tower, FrameLabels(clips, size=SIZE, grid=grid, start=stage.first), None
    model.get_vision_tower().requires_grad_(False)  # its features are data
    letters = [tokenizer(text).input_ids[-1] for letter in LETTERS for text in (letter, f"x {letter}")]
    objective = VideoObjective(model, letters, layer=TRACKED_LAYER, tracking=stage.tracking, guiding=stage.guiding)
    data = ClipConversations(
        tokenizer, clips, WORLDS[stage.world], stage.mix, stage.density, size=SIZE, grid=grid, start=stage.first,
        batch=stage.batch, passes=stage.passes,
    )  # fmt: skip
    return objective, data, functools.partial(
        collate, prefix=tokenizer(SYSTEM).input_ids, rows=stage.mix.rows, pad=tokenizer.pad_token_id,
        balance=stage.balance,
    )  # fmt: skip


def start_from(objective: torch.nn.Module, folder: Path, tokenizer_folder: Path) -> None:
    """Takes over what was learnt before: a checkpoint's model, the tower alone of a tower stage, all of a later one."""
    if (folder / "model.safetensors").exists():
        weights = _fitted(folder, tokenizer_folder, objective)
        if isinstance(objective, VideoObjective):
            objective.model.load_state_dict(weights)
        else:
            start = "model.vision_tower."
            tower = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            objective.start_from(tower)
        return
    weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    tower = {k.removeprefix("tower."): v for k, v in weights.items() if k.startswith("tower.")}
    if not tower:
        objective.load_state_dict(weights)
    elif isinstance(objective, VideoObjective):
        objective.model.get_vision_tower().load_state_dict(tower)
    else:
        objective.start_from(tower)


def _fitted(folder: Path, tokenizer_folder: Path, objective: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A checkpoint's weights for this geometry: the tower's places interpolated, words carried over by spelling."""
    from safetensors.torch import load_file

    weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    for name, value in weights.items():
        if name.endswith("position_embedding.weight"):
            old, new = int(len(value) ** 0.5), SIZE // PATCH
            places = value.T.unflatten(1, (old, old)).unsqueeze(0)
            places = torch.nn.functional.interpolate(places, size=(new, new), mode="bilinear", align_corners=False)
            weights[name] = places[0].flatten(1).T.contiguous()
    if isinstance(objective, VideoObjective):
        known, wanted = _rows_of_words(folder), _rows_of_words(tokenizer_folder)
        table = objective.model.get_input_embeddings().weight.detach().clone()
        old = weights.pop("model.embed_tokens.weight")
        for word in known.keys() & wanted.keys():
            table[wanted[word]] = old[known[word]]
        weights["model.embed_tokens.weight"] = weights["lm_head.weight"] = table
    return weights


def faster_dtype() -> torch.dtype:
    """bfloat16 on a GPU. On a processor a product decides: one without bfloat16 is up to fifty times slower in it."""
    if torch.cuda.is_available():
        return torch.bfloat16
    matrices = {dtype: torch.ones(256, 256, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)}
    return min(matrices, key=lambda dtype: min(timeit.repeat(lambda: matrices[dtype] @ matrices[dtype], number=1)))


def _frozen_tower(objective: VideoObjective, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of the tower in dtype that takes a few frames a pass (a third less time on a CPU)."""
    tower = copy.deepcopy(objective.model.get_vision_tower()).to(dtype)
    tower.pass_memory = PASS_MEMORY
    return tower


def _rows_of_words(folder: Path) -> dict[str, int]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    return tokenizer["model"]["vocab"] | {added["content"]: added["id"] for added in tokenizer["added_tokens"]}


def add_options(parser: Parser) -> None:
    stages = "tower, answers and polish for film, in this order; shapes, on from the landed weights"
    parser.add_argument("--stage", required=True, choices=STAGES, help=stages)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the run")
    init = "what was learnt before: checkpoints and folders of stages, in this order"
    parser.add_argument("--init", type=Path, nargs="*", default=[], metavar="DIR", help=init)
    parser.add_argument("--times", type=float, default=1.0, metavar="X", help="the recipe's steps, times this")
    parser.add_argument("--batch", type=int, metavar="N", help="clips a step, other than the recipe's")
    dtype = "of the products: bfloat16 or float32 (default: what is faster here)"
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), metavar="NAME", help=dtype)
    parser.add_argument("--deepspeed", metavar="FILE", help="a ZeRO configuration")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the clips and the weights (default 0)")


def _write_tokenizer(stage: Stage, init: list[Path], folder: Path) -> None:
    """The film world's tokenizer, or for the stage "shapes" that of the checkpoint from which it goes on."""
    if stage.world != "shapes":
        save_tokenizer(folder)
        return
    known = [part for start in init for part in (start, start / "tokenizer")]
    words = next((start for start in known if (start / "tokenizer.json").exists()), None)
    if words is None:
        raise SystemExit("The stage shapes goes on from a checkpoint or its own run; name one with --init.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        write_whole(folder / name, (words / name).read_bytes())


def execute(args) -> int:
    """Trains the stage to its end."""
    stage = STAGES[args.stage]
    stage = dataclasses.replace(
        stage, steps=round(stage.steps * args.times), batch=args.batch or stage.batch,
        first=stage.first + CLIPS_A_SEED * args.seed,
    )  # fmt: skip
    launched = PartialState(cpu=not torch.cuda.is_available())
    if stage.batch % launched.num_processes:
        count = launched.num_processes
        raise SystemExit(f"{count} processes cannot share {stage.batch} clips a step; give another --batch.")
    set_seed(args.seed)
    tokenizer_folder = args.output / "tokenizer"
    with launched.main_process_first():
        if not (tokenizer_folder / "tokenizer_config.json").exists():  # written last
            _write_tokenizer(stage, args.init, tokenizer_folder)
    objective, data, collator = build(stage, tokenizer_folder)
    last = last_checkpoint(args.output)
    for folder in [*args.init, *([last] if last else [])]:
        start_from(objective, Path(folder), tokenizer_folder)
    dtype = getattr(torch, args.dtype) if args.dtype else faster_dtype()
    if stage.objective == "video":
        data.tower = _frozen_tower(objective, dtype)
        if stage.passes > 1:
            data.store = args.output / "features"
            data.store.mkdir(parents=True, exist_ok=True)
    trainer = StageTrainer(
        model=objective,
        stage=stage,
        train_dataset=data,
        data_collator=collator,
        args=TrainingArguments(
            output_dir=str(args.output),
            max_steps=stage.steps,
            per_device_train_batch_size=stage.batch // launched.num_processes,
            learning_rate=stage.learning_rate,
            max_grad_norm=1.0,
            bf16=dtype == torch.bfloat16,
            use_cpu=not torch.cuda.is_available(),
            dataloader_num_workers=1 if not torch.cuda.is_available() else 12,
            remove_unused_columns=False,
            label_names=[],
            logging_steps=20,
            save_steps=50,
            save_total_limit=1,
            report_to=[],
            seed=args.seed,
            deepspeed=args.deepspeed,
        ),
    )
    args.output.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=last)
    if trainer.is_world_process_zero():
        # float16, as the checkpoint will be; what resuming needs lies whole in the folders of the steps
        part = args.output / f"{WEIGHTS}.part"  # what has its name is whole
        torch.save({k: v.half() for k, v in objective.state_dict().items()}, part)
        part.replace(args.output / WEIGHTS)
        write_whole(args.output / "log.json", json.dumps(trainer.state.log_history, indent=0).encode())
    return 0


main = entry("train-tiny")

if __name__ == "__main__":
    sys.exit(main())
