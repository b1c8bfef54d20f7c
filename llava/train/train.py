"""Trains a SigLIP + Qwen2 checkpoint on conversations with images and videos: `aot train --data_path data.json …`.

The Trainer of transformers does the work; accelerate, torchrun or deepspeed launch this module as any other. A run
whose folder holds checkpoints goes on from the last one. What comes out is a checkpoint that `load_pretrained_model`
loads, whole or as an adapter of `model_base`.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from transformers import HfArgumentParser, set_seed

from aot import AOTConfig
from aot_cli.main import entry
from aot_cli.parser import Parser, share
from aot_tiny.worlds import WORLDS, checkpoint_world
from llava.conversation import conv_templates
from llava.eval.jsonl import write_json
from llava.model.builder import load_pretrained_model
from llava.train.arguments import PARTS, DataArguments, ModelArguments, TrainArguments
from llava.train.conversations import DataError
from llava.train.data import Collator, Conversations
from llava.train.exam import TrainingExam
from llava.train.trainer import LlavaTrainer, last_checkpoint, read_skipped

ADAPTED = r"model\.layers\.\d+\.(self_attn|mlp)\.[a-z]+_proj"  # all linear layers of the language model
SETTINGS = "settings.json"  # in a run's folder: what its checkpoints were trained with
BOUND_TO_A_RUN = ("lora_enable", "lora_r", "lora_alpha", "seed", "model_max_length")  # of TrainArguments
SHOWN = (  # in the help; docs/training.md has all
    "model_name_or_path", "mm_tunable_parts", "lora_enable", "lora_merge", "retention", "data_path", "image_folder",
    "video_folder", "frames_upbound", "max_unreadable", "group_by_modality_length", "exam_questions", "output_dir",
)  # fmt: skip


def load_model(arguments: ModelArguments, data: DataArguments, args: TrainArguments):
    """(tokenizer, model) as they are trained: settings in the configuration, parts frozen, adapters put in."""
    parts = set(arguments.mm_tunable_parts.split(","))
    if not parts <= set(PARTS):
        raise DataError(f"mm_tunable_parts holds {sorted(parts - set(PARTS))[0]!r}; use {', '.join(PARTS)}.")
    if arguments.version not in conv_templates:
        raise DataError(f"There is no template {arguments.version!r}; use one of {', '.join(conv_templates)}.")
    fields = {
        "mm_newline_position": arguments.mm_newline_position,
        "mm_spatial_pool_mode": arguments.mm_spatial_pool_mode,
        "image_aspect_ratio": data.image_aspect_ratio,
        "image_grid_pinpoints": data.image_grid_pinpoints,
        "tokenizer_model_max_length": args.model_max_length,
        "mm_video_frames": data.frames_upbound,
        "add_time_instruction": data.add_time_instruction,
        "force_sample": data.force_sample,
    }
    reduced = None
    if arguments.retention is not None:
        reduced = AOTConfig(method=arguments.method, retention=max(arguments.retention))
    half = args.bf16 and (args.deepspeed or args.lora_enable)  # both keep what they train in float32 themselves
    tokenizer, model, _, _ = load_pretrained_model(
        arguments.model_name_or_path,
        device_map=None if args.deepspeed else str(args.device),
        torch_dtype="bfloat16" if half else "float32",
        attn_implementation=arguments.attn_implementation,
        overwrite_config={name: value for name, value in fields.items() if value is not None},
        compression=reduced,
    )
    model.config.use_cache, model.config.tokenizer_padding_side = False, "right"
    if args.lora_enable:
        return tokenizer, adapted(model, parts, args)
    model.requires_grad_("mm_language_model" in parts)
    model.get_model().mm_projector.requires_grad_("mm_mlp_adapter" in parts)
    model.get_vision_tower().requires_grad_("mm_vision_tower" in parts)
    return tokenizer, model


def adapted(model, parts: set[str], args: TrainArguments):
    """The model with adapters in its language model; projector and tower, where they are trained, are trained whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise DataError("lora_enable needs peft; run pip install peft.") from error
    whole = {"mm_mlp_adapter": "mm_projector", "mm_vision_tower": "vision_tower"}
    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=ADAPTED,
        modules_to_save=[name for part, name in whole.items() if part in parts] or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def train(arguments: ModelArguments, data: DataArguments, args: TrainArguments) -> LlavaTrainer:
    """Trains to the end, from the last checkpoint in `output_dir` on, and writes the result there.

    Raises DataError where that checkpoint is of a run with other data, another model or other parts of it.
    """
    set_seed(args.seed)
    folder = Path(args.output_dir)
    asked = dataclasses.asdict(arguments) | dataclasses.asdict(data)
    asked |= {name: getattr(args, name) for name in BOUND_TO_A_RUN}
    checkpoint = last_checkpoint(folder)
    if checkpoint and (folder / SETTINGS).is_file():
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        for name, value in asked.items():
            if name in before and before[name] != value:
                raise DataError(
                    f"{folder} holds a run with {name} {before[name]!r}, and this one has {value!r}; give another "
                    "--output_dir, or the run's own settings to go on with it"
                )
    tokenizer, model = load_model(arguments, data, args)
    base = model.get_base_model() if args.lora_enable else model
    samples = Conversations(
        data, tokenizer, base, template=arguments.version, retention=arguments.retention, seed=args.seed
    )
    exam = None
    if args.eval_strategy != "no":
        world = WORLDS[checkpoint_world(arguments.model_name_or_path)]
        given = {"folder": folder / "exam", "questions": args.exam_questions, "world": world}
        exam = TrainingExam(base, tokenizer, samples.processor, **given)
    trainer = LlavaTrainer(
        model=model,
        args=args,
        train_dataset=samples,
        eval_dataset=exam,
        data_collator=Collator(tokenizer.pad_token_id or 0),
        processing_class=tokenizer,
        max_unreadable=data.max_unreadable,
    )
    if trainer.is_world_process_zero():
        write_json(folder / SETTINGS, asked)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        if trainer.is_world_process_zero() and (skipped := read_skipped(folder)):
            print(f"{len(skipped)} of {len(samples)} samples could not be read:", file=sys.stderr)
            for name, reason in skipped.items():
                print(f"  {name}: {reason}", file=sys.stderr)
    base.config.use_cache = True
    if args.lora_merge:
        trainer.model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    elif args.lora_enable:
        base.config.save_pretrained(folder)
    trainer.save_model()
    trainer.save_state()
    return trainer


def add_options(parser: Parser) -> None:
    """Our options and LLaVA-NeXT's, the common ones in the help; `execute` reads the line anew."""
    inherited = {field.name for field in dataclasses.fields(TrainArguments.__base__)} - {"output_dir"}
    for kind in (ModelArguments, DataArguments, TrainArguments):
        for field in dataclasses.fields(kind):
            if field.name not in inherited:
                told = field.metadata["help"] if field.name in SHOWN else argparse.SUPPRESS
                parser.add_argument(f"--{field.name}", nargs="*", metavar="X", default=[], help=told)


def execute(options) -> int:
    """Reads the arguments as transformers does and trains; returns the exit code."""
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainArguments))
    words, place = list(options.words), 0
    if "--retention" in words:  # 10% is 0.1
        place = words.index("--retention") + 1
        while place < len(words) and not words[place].startswith("--"):
            words[place] = str(share(words[place]))
            place += 1
    try:
        arguments, data, args, unknown = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
        if unknown:
            raise DataError(f"there is no option {unknown[0]}")
        if not data.data_path:
            raise DataError("--data_path is missing; name a JSON file of conversations")
        train(arguments, data, args)
    except ValueError as error:
        print(f"aot train: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


main = entry("train")

if __name__ == "__main__":
    sys.exit(main())
