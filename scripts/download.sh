#!/usr/bin/env bash
# Fetches checkpoints and benchmark videos from the Hugging Face hub. Tells sizes and licences first and asks; what was
# interrupted goes on with the same command.
# usage: bash scripts/download.sh NAME… [--list] [--yes] [--cache-dir DIR]
# NAME: ov-7b video-7b | videomme mvbench egoschema longvideobench mlvu-dev mlvu-test | checkpoints benchmarks paper
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
(cd "$root" && . scripts/environment.sh && make_environment demo)
exec "$root/.venv/bin/aot" download "$@"
