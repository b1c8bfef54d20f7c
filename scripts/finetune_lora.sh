#!/usr/bin/env bash
# Trains LoRA adapters in the language model, and the projector; otherwise as scripts/finetune.sh.
set -euo pipefail
export TUNE=mm_mlp_adapter ZERO=2 RATE=${RATE:-2e-4}
exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" --lora_enable True --lora_r 64 --lora_alpha 16 "$@"
