#!/usr/bin/env bash
# The exam, every method at every retention and the ablations, into docs/results.md; run it again after an
# interruption and it goes on. Arguments go to aot exam methods: --report writes from what is there, --only
# methods and --only ablations can run beside each other. Settings are chosen on other clips than those reported:
#   bash scripts/methods_table.sh --seed 5000 --output runs/choosing --page runs/choosing/results.md
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
"$python" -m aot_cli exam methods --page docs/results.md "$@"
