#!/usr/bin/env bash
# Reproduces one of the published tables: runs what is missing and writes docs/reproduced/TABLE.md with its picture.
# Without a GPU or the checkpoints it runs on the embedded model over procedural clips, and the title says so.
# usage: bash scripts/reproduce.sh TABLE [--limit N] [--settings TEXT] [--embedded] [--nproc_per_node N]
#            [--nnodes N --node_rank R --master_addr HOST --master_port PORT] [--output DIR] [--pages DIR]
# TABLE: main-ov, main-video, components, aggregation, random-anchors, clips, iterations, frames, mlvu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
make_environment demo lmms
exec .venv/bin/aot eval --or-embedded --pages docs/reproduced "$@"
