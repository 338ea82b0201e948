#!/usr/bin/env bash
# Everything that has to pass: lint, types, tests, documentation, and the built wheel used from elsewhere. Called by
# `make test`. Two lanes side by side, since most of it keeps one core busy: the tests here, the rest in the background.
# WORKERS=1 runs the tests in one process.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
# Each worker of the tests has a core for itself. Tests of several threads ask torch for them.
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1

step() { # step NAME COMMAND...: runs it and says how long it took
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@" || { printf '== %s FAILED after %d s\n' "$name" $((SECONDS - start)) >&2; exit 1; }
    printf '== %s: %d s\n' "$name" $((SECONDS - start))
}

types() {
    bash scripts/links.sh
    (cd build/types && mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p hyperfields)
}

docs() { NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet; }

kernels() { # compiled once here, instead of once in each worker
    local room
    room=$(mktemp -d)
    python - "$room" <<'PY'
import sys
from hyperfields.cli import main

for family in ("emoji", "shapes_cars", "cars_views"):
    size = [] if family == "shapes_cars" else ["--size", "16x16"]
    words = ["fit", f"scenes/samples/{family}", "--out", f"{sys.argv[1]}/{family}", "--preset", "tiny", "--limit", "2"]
    if main([*words, "--steps", "2", *size]):
        sys.exit(1)
PY
    rm -rf "$room"
}

tests() { pytest -n "${WORKERS:-logical}" --maxprocesses=4 --dist loadfile --no-loadscope-reorder -m "not smoke"; }

step "lint" ruff check .
step "format" ruff format --check .

mkdir -p build
set -m # a process group of its own, so that all of it ends when the tests fail
(
    step "types" types
    step "documentation" docs
    step "wheel" bash scripts/test_wheel.sh
) >build/beside.log 2>&1 &
beside=$!
set +m
trap 'kill -- -$beside 2>/dev/null || true' EXIT

step "kernels" kernels
step "tests" tests
wait "$beside" && passed=1 || passed=0
trap - EXIT
cat build/beside.log
[ "$passed" = 1 ] || exit 1
echo "== all passed in $SECONDS s"
