"""A short run of `aot train`: its command line, in this process or several, and what it left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from llava.model.builder import load_pretrained_model

ROOT = Path(__file__).parents[3]
goes_on = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.6"), reason="transformers reads optimizers with torch 2.6 and later alone"
)
MODES = {
    "projector": ["--mm_tunable_parts", "mm_mlp_adapter"],
    "full": ["--mm_tunable_parts", "mm_vision_tower,mm_mlp_adapter,mm_language_model"],
    "lora": ["--lora_enable", "True", "--lora_r", "4", "--mm_tunable_parts", "mm_mlp_adapter"],
}


def words(checkpoint, data, media, folder, *more, steps=2, batch=2, save_every=1):
    settings = {
        "model_name_or_path": checkpoint,
        "data_path": data,
        "image_folder": media,
        "video_folder": media,
        "frames_upbound": 4,
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": save_every,
        "report_to": "none",
        "use_cpu": True,
        "lr_scheduler_type": "constant",
        "attn_implementation": "sdpa",
        "disable_tqdm": True,
    }
    given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["train", *given, *map(str, more)]


def losses(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    return [row["loss"] for row in state["log_history"] if "loss" in row]


def weights(folder, base=None):
    _, model, _, _ = load_pretrained_model(folder, base, "any", device_map="cpu", torch_dtype="float32")
    return model.state_dict()


# accelerate finds no backend for deepspeed on a machine without accelerators
GLOO = """
import sys
import torch
from accelerate.state import DistributedType, PartialState
if not torch.cuda.is_available():
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
from llava.train.train import main
sys.exit(main())
"""


def start(line, *, port, ranks=1, deepspeed=False):
    """The run in processes of its own, one a rank, as a launcher would start them."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    module = ["-c", GLOO] if deepspeed else ["-m", "llava.train.train"]
    command = [sys.executable, *module, *line[1:], *([] if deepspeed else ["--ddp_backend", "gloo"])]
    return [
        subprocess.Popen(
            command,
            env=environment | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def finish(processes):
    for process in processes:
        _, told = process.communicate(timeout=900)
        assert process.returncode == 0, told[-3000:]
