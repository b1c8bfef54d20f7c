#!/usr/bin/env bash
# Trains the embedded model on the film world, from checkpoints/aot-tiny on, stage by stage; run it again after an interruption and it goes on.
# usage: bash scripts/train_tiny.sh [--runs DIR] [--output DIR] [--times N] [--batch N] [--until STAGE]
#   --times, --batch: the recipe's steps times N, clips a step; for a GPU, say, --times 5 --batch 48
#   --until: stop behind this stage (tower, answers, polish)
set -euo pipefail
cd "$(dirname "$0")/.."
runs=runs/film output='' until=polish
more=()
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=$2; shift 2 ;;
        --output) output=$2; shift 2 ;;
        --times | --batch) more+=("$1" "$2"); shift 2 ;;
        --until) until=$2; shift 2 ;;
        *) echo "unknown argument $1; use --runs, --output, --times, --batch or --until" >&2; exit 2 ;;
    esac
done
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
case $until in
    tower | answers | polish) ;;
    *) echo "there is no stage $until; --until takes tower, answers or polish" >&2; exit 2 ;;
esac
before=(--init checkpoints/aot-tiny)
for stage in tower answers polish; do
    if [ ! -e "$runs/$stage/log.json" ]; then # written when a stage is complete
        "$python" -m aot_cli train-tiny --stage "$stage" --output "$runs/$stage" "${before[@]}" "${more[@]}"
    fi
    # answers take the language model from the checkpoint and the tower from its stage
    [ "$stage" = tower ] && before+=("$runs/tower") || before=(--init "$runs/$stage")
    [ "$stage" = "$until" ] && break
done
[ "$until" = polish ] || exit 0
output=${output:-$runs/checkpoint}
"$python" -m aot_cli export --run "$runs" --output "$output"
echo "checkpoint in $output; examine it with: $python -m aot_cli exam --model-path $output"
