#!/usr/bin/env bash
# Runs the tests that touch torch, transformers and lmms-eval on the oldest and newest releases that pyproject.toml
# takes; a table at the end says what passed in each set.
# usage: bash scripts/test_versions.sh [SET]     all of them without SET
#   transformers-oldest   4.57.4 over the pinned torch, a minute to install; scripts/test.sh runs its test of aot.apply
#   transformers-newest   the newest that pyproject.toml takes, over the pinned torch
#   lmms-newest           the newest lmms-eval over the pinned rest
#   oldest                torch 2.4.0 and transformers 4.57.4: downloads 3 GB, takes 6 GB of disk
#   newest                the newest torch and transformers: as large
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
old=(transformers==4.57.4 tokenizers==0.22.2 huggingface_hub==0.36.2)
tests=(tests/aot tests/apply tests/llava tests/eval tests/serve --ignore=tests/serve/test_commands.py)
table=() failed=0

# check NAME PYTHON TRANSFORMERS TEST…: runs tests, once that release of transformers (a prefix) is what is imported
check() {
    local name=$1 python=$2 wanted=$3 found status=0
    shift 3
    found=$("$python" -c 'import torch, transformers as t; print("transformers", t.__version__, "torch", torch.__version__)')
    say "$name: $found"
    if [[ "$found" != "transformers $wanted"* ]]; then
        say "transformers $wanted was to be tested"
        status=1
    else
        "$python" -m pytest -q "$@" || status=$?
    fi
    [ "$status" = 0 ] || failed=1
    table+=("$(printf '%-20s %-48s %s' "$name" "$found" "$([ "$status" = 0 ] && echo passed || echo FAILED)")")
}

# layer NAME REQUIREMENT…: a folder of packages before those of .venv
layer() {
    local folder=.versions/$1
    if [ "$(cat "$folder/installed" 2>/dev/null)" != "${*:2}" ]; then
        say "installing ${*:2}"
        rm -rf "$folder"
        install --no-deps --target "$folder" "${@:2}"
        printf '%s' "${*:2}" > "$folder/installed"
    fi
    export PYTHONPATH=$PWD/$folder:$PWD
}

# whole NAME REQUIREMENT…: an environment of its own
whole() {
    environment=.versions/$1
    [ -x "$environment/bin/python" ] || "$(find_python)" -m venv "$environment"
    say "installing ${*:2} (several GB)"
    install "${@:2}" $(sed -nE 's/^((pytest|hypothesis|pexpect|POT|matplotlib|decord)==[^; ]+).*/\1/p' \
        requirements/test.txt requirements/demo.txt | sort -u -t= -k1,1)
    install -e .
    export PYTHONPATH=$PWD
}

run() {
    case $1 in
        # the pinned datasets does not import under an old huggingface_hub
        transformers-oldest) layer "$1" "${old[@]}" datasets==4.4.2; check "$1" .venv/bin/python 4.57.4 "${@:2}" ;;
        transformers-newest) layer "$1" "transformers<5.25"; check "$1" .venv/bin/python 5.24 "${@:2}" ;;
        lmms-newest) layer "$1" lmms-eval; check "$1" .venv/bin/python 5. tests/lmms ;;
        oldest) whole "$1" torch==2.4.0 "numpy<2" accelerate "${old[@]}"; check "$1" "$environment/bin/python" 4.57.4 "${@:2}" ;;
        newest) whole "$1" torch "transformers<5.25" accelerate; check "$1" "$environment/bin/python" 5.24 "${@:2}" ;;
        *) say "unknown set $1; use transformers-oldest, transformers-newest, lmms-newest, oldest or newest"; exit 2 ;;
    esac
}

if [ $# -gt 1 ]; then # a set and tests
    run "$@"
else
    make_environment demo lmms test
    for set in ${1:-transformers-oldest transformers-newest lmms-newest oldest newest}; do
        environment=.venv
        run "$set" "${tests[@]}" $([ "$set" != transformers-oldest ] || echo tests/hf tests/lmms/test_families.py)
    done
fi
printf '%s\n' "${table[@]}"
exit "$failed"
