#!/usr/bin/env bash
# Makes the environment with the page's needs, installs Chromium where apt can, and runs the browser test.
# Arguments go to pytest; --screenshot FILE keeps a picture of the page.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
environment=.venv-web # Gradio needs other versions than the rest is pinned to
make_environment web
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    say "installing chromium and chromium-driver"
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -qq
    $as_root apt-get install -y -qq --no-install-recommends chromium chromium-driver
fi
exec "$environment/bin/python" -m pytest tests/web "$@"
