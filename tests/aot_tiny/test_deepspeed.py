"""One optimizer step of the video model under the ZeRO-3 configuration, where deepspeed is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP = """
import sys
import torch
from transformers import Trainer, TrainingArguments
from aot_tiny.training.recipe import new_model
from aot_tiny.training.tokenizer import save_tokenizer

folder, zero = sys.argv[1:]
save_tokenizer(folder + "/tokenizer")
args = TrainingArguments(
    output_dir=folder, max_steps=1, per_device_train_batch_size=1, bf16=torch.cuda.is_available(), report_to=[],
    deepspeed=zero, remove_unused_columns=False, save_strategy="no",
)
model, _ = new_model(folder + "/tokenizer")
ids = torch.tensor([1, -200, 5, 6, 7])
sample = {"input_ids": ids, "labels": ids.clamp_min(-100), "images": torch.zeros(2, 3, 192, 192)}
def collate(samples):
    return {
        "input_ids": torch.stack([s["input_ids"] for s in samples]),
        "labels": torch.stack([s["labels"] for s in samples]),
        "images": [s["images"] for s in samples], "modalities": ["video"] * len(samples),
    }
trainer = Trainer(model=model, args=args, train_dataset=[sample], data_collator=collate)
out = trainer.train()
assert trainer.is_deepspeed_enabled  # with use_cpu accelerate leaves it out
print("steps", out.global_step, "loss", out.training_loss)
"""


def test_one_step_under_zero_3(tmp_path):
    pytest.importorskip("deepspeed", reason="deepspeed is an extra: pip install -e .[train]")
    env = os.environ | {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    command = [sys.executable, "-c", STEP, str(tmp_path), str(ROOT / "scripts" / "zero3.json")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "steps 1 loss" in done.stdout
