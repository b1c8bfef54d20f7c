#!/usr/bin/env bash
# Makes the environment, then checks style and types and runs the tests; arguments go to pytest. Without arguments the
# oldest transformers is tried first (two minutes), then comes the whole suite (about twelve on two cores).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
make_environment demo lmms test
say "style and types (half a minute)"
.venv/bin/python -m ruff check .
.venv/bin/python -m mypy
if [ $# = 0 ]; then
    say "the oldest transformers (two minutes)"
    bash scripts/test_versions.sh transformers-oldest tests/apply tests/llava/test_pruning.py
    say "the whole suite (about twelve minutes on two cores)"
fi
exec .venv/bin/python -m pytest "$@"
