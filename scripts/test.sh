#!/usr/bin/env bash
# Makes the environment, then checks the style and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
make_environment demo lmms test
.venv/bin/python -m ruff check .
exec .venv/bin/python -m pytest "$@"
