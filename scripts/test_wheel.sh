#!/usr/bin/env bash
# Builds the wheel, installs it into a clean environment and uses it from another folder: the command line on the
# packaged samples, then the tests and the type checker. Nothing of the source tree is on the path there.
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
install() { pip install -q --disable-pip-version-check -c "$root/constraints.txt" "$@"; }
install "$wheel"
cd "$away"
where=$(python -c 'import hyperfields.scenes as s; print(s.__path__[0])')
case "$where" in "$room"/venv/*) ;; *) echo "hyperfields.scenes comes from $where, not from the wheel"; exit 1 ;; esac

say "help"
time hyperfields --help >/dev/null

use() { # use FAMILY RUN [--size HxW]: a tiny fit, its evaluation, a picture of the first scene
    hyperfields fit "$1" --out "$2" --steps 20 --limit 4 "${@:3}"
    hyperfields eval "$2" --out "$2.json"
    local scene
    scene=$(python -c 'import json, sys; print(next(iter(json.load(open(sys.argv[1]))["scenes"])))' "$2.json")
    hyperfields render "$2" --scene "$scene" --out "$2.png"
    test -s "$2.png"
}

say "images, without extras"
use "$where/samples/emoji" images --size 32x32

say "installing the extras, pytest and mypy"
install "$wheel[shapes,metrics,video,viewer]" pytest mypy playwright

for family in "emoji --size 32x32" "cars_views --size 32x32" shapes_cars; do
    say "fit, eval, render: samples/$family"
    read -r name size <<<"$family"
    # shellcheck disable=SC2086 # two words or none
    use "$where/samples/$name" "run-$name" $size
done

say "tests"
cp -r "$root/tests" "$root/pyproject.toml" . # pyproject.toml for the settings of pytest and mypy
pytest -m "not slow"

say "types, in the package and as a user sees them"
mypy -p hyperfields
cat >user.py <<'PY'
import hyperfields

camera: hyperfields.Camera = hyperfields.orbit(3, radius=2.0)[0]
width: int = camera.width
wrong: str = camera.height  # type: ignore[assignment]  # an unused ignore means that the types were lost
PY
mypy user.py
say "wheel done"
