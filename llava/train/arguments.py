"""What `aot train` takes: LLaVA-NeXT's names where it has one, all of transformers' TrainingArguments, and ours."""

from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from transformers import TrainingArguments

from llava.utils import shipped

PARTS = ("mm_vision_tower", "mm_mlp_adapter", "mm_language_model")


def _told(help: str, default=None):
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    model_name_or_path: str = _told("checkpoint to start from", str(shipped("checkpoints/aot-tiny") or ""))
    version: str = _told("conversation template: qwen_1_5, or plain for captions", "qwen_1_5")
    mm_tunable_parts: str = _told(f"which of {', '.join(PARTS)}", ",".join(PARTS[1:]))
    mm_newline_position: str | None = _told("one_token, grid, frame or no_token; default: the checkpoint's")
    mm_spatial_pool_mode: str | None = _told("bilinear, average or max; default: the checkpoint's")
    attn_implementation: str = _told("sdpa or flash_attention_2", "flash_attention_2")
    retention: list[float] | None = _told("share of visual tokens kept, or two to draw between")
    method: str = _told("token reduction with --retention", "aot")


@dataclass
class DataArguments:
    data_path: str = _told("conversations as JSON, or a YAML mixture", "")
    image_folder: str = _told("where the data's images lie", ".")
    video_folder: str = _told("where the data's videos lie", ".")
    video_fps: float | None = _told("frames a second; default: as the checkpoint is asked")
    frames_upbound: int | None = _told("most frames of a video")
    force_sample: bool | None = _told("take exactly that many frames, spread evenly")
    add_time_instruction: bool | None = _told("tell the frames' times in front of the question")
    image_aspect_ratio: str | None = _told("square, pad, anyres or anyres_max_N; default: the checkpoint's")
    image_grid_pinpoints: str | None = _told("as upstream writes them; default: the checkpoint's")
    assistant_only_loss: bool = _told("learn what the model says alone, not the marks of turns as upstream does", False)
    max_unreadable: float = _told("share of unreadable samples that ends the run", 0.05)


@dataclass
class TrainArguments(TrainingArguments):
    output_dir: str | None = _told("the run's folder; called again, it goes on")
    remove_unused_columns: bool = _told("always False: the data are no columns", False)
    gradient_checkpointing: bool = _told("compute layers twice, hold them once", True)
    model_max_length: int | None = _told("tokens of a sample, visual ones included; default: the checkpoint's")
    mm_projector_lr: float | None = _told("learning rate of the projector")
    mm_vision_tower_lr: float | None = _told("learning rate of the tower")
    group_by_modality_length: bool = _told("True: samples of like length together", False)
    exam_questions: int = _told("of the exam by --eval_strategy steps --eval_steps N", 96)
    lora_enable: bool = _told("True: adapters in the language model", False)
    lora_r: int = _told("rank of the adapters", 64)
    lora_alpha: int = _told("scale of the adapters", 16)
    lora_dropout: float = _told("dropout in front of the adapters", 0.05)
    lora_merge: bool = _told("True: write them merged in", False)

    def __post_init__(self):
        if self.use_cpu and self.deepspeed:
            raise ValueError("With --use_cpu accelerate leaves deepspeed out; leave --deepspeed out, or train on GPUs.")
        if self.deepspeed and not find_spec("deepspeed"):
            raise ValueError("--deepspeed needs the package: pip install deepspeed; or leave --deepspeed out.")
        if self.report_to in (None, "all"):
            self.report_to = ["tensorboard"] if find_spec("tensorboard") else []
        if self.gradient_checkpointing and self.gradient_checkpointing_kwargs is None:
            self.gradient_checkpointing_kwargs = {"use_reentrant": False}
        if self.ddp_find_unused_parameters is None:  # a text-only batch leaves the projector without a gradient
            self.ddp_find_unused_parameters = True
        super().__post_init__()

    @property
    def device(self) -> torch.device:
        found = super().device
        # with several processes accelerate says cpu:0, where torch.load of transformers 4 cannot put an optimizer
        return torch.device("cpu") if found.type == "cpu" else found
