#!/usr/bin/env bash
# Starts an OpenAI-compatible server on vLLM that compresses videos.
# usage: bash scripts/serve.sh MODEL [--retention 0.1] [--frames 32] [--data-parallel N] [--set NAME=VALUE] [options of vllm serve]
# MODEL: folder or hub name in the layout of transformers; `aot convert` writes it from one of LLaVA-NeXT's.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for python in "$root/.venv-vllm/bin/python" python3; do
    if "$python" -c 'from importlib.util import find_spec as f; raise SystemExit(not (f("vllm") and f("llava")))' 2>/dev/null; then
        exec "$python" -m aot_cli serve "$@"
    fi
done
echo "vLLM is not installed here; install it with: pip install 'aot-video[vllm]' (docs/serving.md)" >&2
exit 1
