#!/usr/bin/env bash
# Trains the projector alone, on captions; otherwise as scripts/finetune.sh.
set -euo pipefail
export TUNE=mm_mlp_adapter ZERO=2 RATE=${RATE:-1e-3}
exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" --version plain "$@"
