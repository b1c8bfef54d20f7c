#!/usr/bin/env bash
# Makes the environment, draws a clip, asks three questions at 100 % and at 10 % of the visual tokens.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
make_environment demo
exec .venv/bin/aot demo "$@"
