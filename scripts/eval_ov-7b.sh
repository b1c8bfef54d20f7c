#!/usr/bin/env bash
# LLaVA-OneVision-7B on MVBench, EgoSchema, LongVideoBench and Video-MME, with all tokens and at 10 %. Run it again
# after an interruption and it goes on; scripts/download.sh fetches checkpoint and videos beforehand.
# usage: bash scripts/eval_ov-7b.sh [--model-path CHECKPOINT] [--retention R...] [--method NAME]
#            [--preset NAME[,FIELD=VALUE...]] [--set FIELD=VALUE] [--args NAME=VALUE] [--tasks TASK...] [--limit N]
#   several GPUs:     --nproc_per_node 8
#   several machines: --nproc_per_node 8 --nnodes 2 --node_rank 0 --master_addr HOST   (node_rank 1 on the second)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
make_environment demo lmms
exec .venv/bin/aot eval --name llava-onevision-7b \
    --model llava_onevision_aot --model-path lmms-lab/llava-onevision-qwen2-7b-ov --args max_frames_num=32 \
    --tasks aot_mvbench aot_egoschema aot_longvideobench videomme --retention 0.1 "$@"
