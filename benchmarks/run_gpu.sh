#!/usr/bin/env bash
# Every GPU measurement in one run of at most 8 minutes: kernel tests, operations, end to end. Leaves one JSON and says
# which targets are met; the exit status is 1 unless all are.
#   bash benchmarks/run_gpu.sh [FILE]            default benchmarks/results/gpu-DATE.json
#   bash benchmarks/run_gpu.sh --rehearse FILE   the same steps on a CPU and small shapes, to see that they run
# PYTHON names the interpreter (default .venv's, else python3).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
device=cuda size=7b shapes="7b 0.5b tiny" frames="32 8 64 128 1024" modes=7b checks=()
case "${1:-}" in
    --rehearse)
        output=${2:?give a file for the figures: bash benchmarks/run_gpu.sh --rehearse FILE}
        device=cpu size=small shapes=tiny frames="4 8" modes=tiny checks=(-k "temporal or softmax or modes")
        ;;
    -*) sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"; exit 2 ;;
    *) output=${1:-benchmarks/results/gpu-$(date -u +%Y-%m-%d).json} ;;
esac
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
"$python" - $device <<'END' || exit 1
import sys
from importlib.util import find_spec

device, python = sys.argv[1], sys.executable
missing = [name for name in ("torch", "triton", "transformers", "pytest") if find_spec(name) is None]
if missing:
    sys.exit(f"{python} lacks {', '.join(missing)}; install that, or name another interpreter in PYTHON.")
import torch

if device == "cuda" and not torch.cuda.is_available():
    sys.exit(f"{python} has torch {torch.__version__}, which sees no CUDA device; run this on a machine with a GPU and "
             "a CUDA build of torch, or name another interpreter in PYTHON.")
END

mkdir -p "$(dirname "$output")"
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
started=$SECONDS
[ $device = cpu ] && export TRITON_INTERPRET=1
timeout 150 "$python" -m pytest -q "${checks[@]}" tests/ops/kernel_checks.py tests/llava/test_tower_modes.py 2>&1 |
    tee "$parts/tests.txt" | tail -5
unset TRITON_INTERPRET
timeout 120 "$python" -m benchmarks.bench_ops --device $device --size $size --output "$parts/ops.json" \
    >"$parts/ops.txt" 2>&1
grep -v '^{"benchmark"' "$parts/ops.txt" | tail -48
left=$((380 - (SECONDS - started)))
timeout "$left" "$python" -m benchmarks.bench_e2e --device $device --shapes $shapes --frames $frames \
    --seconds $((left - 60)) --output "$parts/e2e.json" 2>&1 | grep -v '^{"benchmark"' | tail -100
timeout $((470 - (SECONDS - started))) "$python" -m benchmarks.bench_e2e --device $device --shapes $modes \
    --frames "${frames%% *}" --settings "aot 10 %" "aot 10 % compiled tower" "aot 10 % graphed tower" \
    --output "$parts/tower_modes.json" 2>&1 | grep -v '^{"benchmark"' | tail -10
"$python" - "$parts" "$output" <<'END'
import json, sys
from pathlib import Path

parts, output = map(Path, sys.argv[1:])
read = lambda name: json.loads((parts / name).read_text()) if (parts / name).exists() else None
tests = (parts / "tests.txt").read_text().strip().splitlines()
result = {"kernel_tests": tests[-1] if tests else None, "ops": read("ops.json"), "e2e": read("e2e.json")}
result["tower_modes"] = read("tower_modes.json")
output.write_text(json.dumps(result, indent=1) + "\n")
print(f"wrote {output}")
END
"$python" -m benchmarks.check_targets "$output" $([ $device = cpu ] && echo --rehearsal)
