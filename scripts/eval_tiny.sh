#!/usr/bin/env bash
# The embedded model through lmms-eval on questions about procedural clips: offline, on the CPU. Run it again after an
# interruption and it goes on.
# usage: bash scripts/eval_tiny.sh [--retention R...] [--method NAME] [--preset NAME] [--tasks TASK...] [--limit N]
#            [--nproc_per_node N] [--output DIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
make_environment demo lmms
exec .venv/bin/aot eval --name tiny --device cpu \
    --model llava_onevision_aot --model-path checkpoints/aot-tiny \
    --tasks aot_clips_open aot_clips_choice --retention 0.25 0.1 "$@"
