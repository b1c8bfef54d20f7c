#!/usr/bin/env bash
# The exam, every method at every retention and the ablations, into docs/results.md; run it again after an
# interruption and it goes on. Arguments go to llava.eval.method_table (--report writes from what is there).
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
"$python" -m llava.eval.method_table "$@"
