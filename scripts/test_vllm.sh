#!/usr/bin/env bash
# Makes an environment with vLLM's CPU build and runs the tests of serving on it; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
environment=.venv-vllm # vLLM needs other versions than the rest is pinned to
make_environment vllm
python=$environment/bin/python
if ! "$python" -c 'import torchvision' 2>/dev/null; then
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cp scripts/torchvision_names.py "$packages"
    echo "import torchvision_names" > "$packages/torchvision_names.pth"
fi
exec "$python" -m pytest tests/vllm -rA "$@"
