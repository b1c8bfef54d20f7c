#!/usr/bin/env bash
# Makes the environment, then checks style and types and runs the tests; arguments go to pytest. Without arguments the
# oldest transformers is tried first (two minutes), then comes the whole suite (about twelve on two cores).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
say "style and types (half a minute)"
bash scripts/ci.sh style
if [ $# = 0 ]; then
    say "the oldest transformers (two minutes)"
    bash scripts/ci.sh versions transformers-oldest tests/apply tests/llava/test_pruning.py
    say "the whole suite (about twelve minutes on two cores)"
fi
exec bash scripts/ci.sh tests "$@"
