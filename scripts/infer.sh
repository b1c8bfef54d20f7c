#!/usr/bin/env bash
# Answers a JSONL file of {id, video, question}, on one or several GPUs and machines; run it again and it goes on.
# usage: bash scripts/infer.sh --input QUESTIONS.jsonl --output ANSWERS.jsonl [--model-path CHECKPOINT] [--retention R]
#            [--nproc_per_node N] [--nnodes N --node_rank R --master_addr HOST --master_port PORT]
#            [the model and video options of `aot chat`]
# exit code: 0 all answered, 1 some failed or missing (the output and standard error say which), 2 wrong command
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
(cd "$root" && . scripts/environment.sh && make_environment demo)
exec "$root/.venv/bin/aot" infer "$@"
