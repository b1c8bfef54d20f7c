#!/usr/bin/env bash
# Trains a checkpoint on conversations, on all GPUs under ZeRO-3, or on the CPU where there is none; called again, it
# goes on. Arguments are those of aot train and win over what stands here.
# usage: bash scripts/finetune.sh --model_name_or_path CHECKPOINT --data_path data.yaml --output_dir runs/mine
#   TUNE (parts that are trained), ZERO (2 or 3), RATE (learning rate) as variables
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
settings=(
    --mm_tunable_parts "${TUNE:-mm_vision_tower,mm_mlp_adapter,mm_language_model}"
    --learning_rate "${RATE:-1e-5}" --num_train_epochs 1 --per_device_train_batch_size 1
    --lr_scheduler_type cosine --warmup_steps 20 --weight_decay 0 --logging_steps 1
    --save_steps 500 --save_total_limit 1 --group_by_modality_length True
)
[ "${TUNE:-tower}" = tower ] && settings+=(--mm_vision_tower_lr 2e-6)
if [ "$gpus" = 0 ]; then
    exec "$python" -m aot_cli train "${settings[@]}" --use_cpu True "$@"
fi
exec "$python" -m torch.distributed.run --nproc_per_node "$gpus" -m llava.train.train "${settings[@]}" \
    --bf16 True --dataloader_num_workers 4 --deepspeed "scripts/zero${ZERO:-3}.json" "$@"
