#!/usr/bin/env bash
# Trains checkpoints/aot-tiny from nothing, stage by stage; run it again after an interruption and it goes on.
# usage: bash scripts/train_tiny.sh [--runs DIR] [--output DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
runs=runs/aot-tiny output=runs/aot-tiny/checkpoint
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=$2; shift 2 ;;
        --output) output=$2; shift 2 ;;
        *) echo "unknown argument $1; use --runs DIR or --output DIR" >&2; exit 2 ;;
    esac
done
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
before=()
for stage in tower places words letters answers; do
    if [ ! -e "$runs/$stage/log.json" ]; then # written when a stage is complete
        "$python" -m llava.train.train --stage "$stage" --output "$runs/$stage" "${before[@]}"
    fi
    before=(--init "$runs/$stage")
done
"$python" -m llava.train.export --run "$runs" --output "$output"
echo "checkpoint in $output; examine it with: $python -m llava.eval.evaluate --model-path $output"
