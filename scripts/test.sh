#!/usr/bin/env bash
# Everything that has to pass: lint, types, tests, and the built wheel used from elsewhere. Called by `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

step() { # step NAME COMMAND...: runs it and says how long it took
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@" || { printf '== %s FAILED after %d s\n' "$name" $((SECONDS - start)) >&2; exit 1; }
    printf '== %s: %d s\n' "$name" $((SECONDS - start))
}

types() { # mypy cannot follow the package mapping of an editable install: show it the installed layout as links
    rm -rf build/types
    mkdir -p build/types/hyperfields
    ln -s "$PWD"/hyperfields/* "$PWD/scenes" "$PWD/viewer" build/types/hyperfields/
    (cd build/types && mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p hyperfields)
}

slow_tests() { # pytest's exit 5 means that no test is marked slow
    pytest -m slow || [ $? -eq 5 ]
}

step "lint" ruff check .
step "format" ruff format --check .
step "types" types
step "fast tests" pytest -m "not slow"
step "slow tests" slow_tests
step "wheel" bash scripts/test_wheel.sh
echo "== all passed in $SECONDS s"
