#!/usr/bin/env bash
# One job of continuous integration. The workflows in .github/ run these jobs and nothing else, so you can run them too.
# usage: bash scripts/ci.sh JOB [ARGUMENTS]
#   style             .github, CITATION.cff and the leaderboard against their schemas, ruff and mypy
#   tests [PYTEST…]   the test suite; arguments go to pytest
#   versions [SET]    the tests on the oldest and newest releases (scripts/test_versions.sh)
#   build             wheel and sdist in dist/, and the wheel installed and asked a question
#   docs              the site of the documentation in site/, without a warning
#   tag NAME          whether a tag names the version in pyproject.toml and CHANGELOG.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

usage() { sed -n '/^# usage/,/^set/{s/^# \{0,1\}//p}' scripts/ci.sh >&2; }

schema() { "$environment/bin/python" -m check_jsonschema --builtin-schema "$@" >&2; }

style() {
    make_environment demo lmms test
    schema vendor.github-workflows .github/workflows/*.yml
    schema custom.github-workflows-require-timeout .github/workflows/*.yml
    schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/{new_method,wrong_number,file_not_read}.yml
    schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
    schema vendor.dependabot .github/dependabot.yml
    schema vendor.citation-file-format CITATION.cff
    "$environment/bin/python" -m check_jsonschema --schemafile docs/leaderboard/schema.json docs/leaderboard/*_*.json >&2
    "$environment/bin/python" -m ruff check .
    "$environment/bin/python" -m mypy
}

tests() {
    make_environment demo lmms test
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # a thread for each process
    [ $# != 0 ] || set -- -n 2 --dist loadfile # the whole suite in two processes
    exec "$environment/bin/python" -m pytest "$@"
}

versions() { exec bash scripts/test_versions.sh "$@"; }

build() {
    make_environment demo test
    rm -rf dist
    "$environment/bin/python" -m build --outdir dist
    "$environment/bin/python" scripts/check_wheel.py dist
}

docs() {
    environment=.venv-docs
    make_environment docs
    NO_MKDOCS_2_WARNING=1 "$environment/bin/python" -m mkdocs build --strict
}

tag() {
    local version
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
    if [ "${1:-}" != "v$version" ]; then
        say "the tag is ${1:-missing}, and pyproject.toml has version $version; they must be the same"
        return 1
    fi
    if ! grep -qE "^## $version \([0-9]{4}-[0-9]{2}-[0-9]{2}\)" CHANGELOG.md; then
        say "CHANGELOG.md has no dated heading '## $version (YYYY-MM-DD)'; date it first"
        return 1
    fi
}

case ${1:-} in
    style | tests | versions | build | docs | tag) "$@" ;;
    *) usage; exit 2 ;;
esac
